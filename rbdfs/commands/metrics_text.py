"""The metrics of a mount as Prometheus reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rbdfs.keeper.meters_client import MetersReader


def metrics_text(reader: MetersReader) -> bytes:
    """Return them in the text format of Prometheus.

    Raises UserError for what are no meters, ModuleNotFoundError where prometheus_client is missing.
    """
    from prometheus_client import generate_latest

    from rbdfs.metrics.exposition import Mount, Reading, registry

    facts, snapshot = reader.facts, reader.snapshot()
    mount = Mount(facts["mountpoint"], facts["source"], bool(facts.get("metrics_images")))
    reading = Reading(snapshot, serving=facts["state"] == "serving")
    return generate_latest(registry(mount, lambda: reading))
