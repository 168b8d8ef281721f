"""``rbdfs status``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rbdfs.commands.output import print_json
from rbdfs.config.extras import require_metrics
from rbdfs.keeper.command_client import ask
from rbdfs.keeper.meters_client import meters_at

if TYPE_CHECKING:
    from rbdfs.config.command_line import Request


def run(request: Request) -> int:
    """Print what the keeper tells of the mount; raise UserError where it does not."""
    if request.values["prometheus"]:
        _print_metrics(request.operand)
    else:
        print_json(ask(request.operand, "status"))
    return 0


def _print_metrics(path: str) -> None:
    require_metrics("--prometheus")
    from prometheus_client import generate_latest

    from rbdfs.metrics.exposition import Mount, Reading, registry

    with meters_at(path, "status") as reader:
        facts, snapshot = reader.facts, reader.snapshot()
    mount = Mount(facts["mountpoint"], facts["source"], bool(facts.get("metrics_images")))
    reading = Reading(snapshot, serving=facts["state"] == "serving")
    sys.stdout.buffer.write(generate_latest(registry(mount, lambda: reading)))
