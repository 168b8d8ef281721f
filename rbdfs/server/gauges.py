"""What a server is doing, written into the meters once a second: open files, caches, moves."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from rbdfs.model import figures

if TYPE_CHECKING:
    from rbdfs.ceph.cluster import Cluster
    from rbdfs.fuse.mounted import Mounted
    from rbdfs.metadata.cache import MetadataCache
    from rbdfs.model.metering import Figure, Metering

log = logging.getLogger(__name__)

_PERIOD_S = 1.0


class _Counters:
    """Counters of this server, added to what those before it have counted."""

    def __init__(self, metering: Metering) -> None:
        self._metering = metering
        self._known: dict[str, tuple[Figure, int]] = {}

    def advance(self, name: str, total: int) -> None:
        """Take in that this server has counted so many by now."""
        figure, before = self._known.get(name) or (self._metering.figure(name), 0)
        figure.add(total - before)
        self._known[name] = (figure, total)


class Gauges:
    """Writes them for one mount."""

    def __init__(self, mounted: Mounted, cluster: Cluster, cache: MetadataCache) -> None:
        self._mounted, self._cluster, self._cache = mounted, cluster, cache
        self._counters = _Counters(mounted.metering)

    async def run(self) -> None:
        """Write them until cancelled."""
        while True:
            try:
                self._write()
            except Exception:
                # Nobody awaits this task: what it raised would take the mount down.
                log.exception("counting what is open failed")
            await trio.sleep(_PERIOD_S)

    def _write(self) -> None:
        handles, freshness = self._mounted.handles, self._mounted.freshness
        images = handles.images()
        waits_s = [waits for shared in images if (waits := freshness.waits_s(shared))]
        locked = sum(shared.image is not None and shared.image.lock_held for shared in images)
        for name, value in (
            ("files_open", len(handles)),
            ("images_open", len(images)),
            ("images_locked", locked),
            ("images_failed", len(handles.lost)),
            ("images_waiting", len(waits_s)),
            ("longest_wait_s", max(waits_s, default=0.0)),
        ):
            self._mounted.metering.figure(name).value = value
        self._count()

    def _count(self) -> None:
        advance = self._counters.advance
        advance("fences", self._cluster.fences)
        moves = self._mounted.moves
        if moves is not None:
            self._mounted.metering.figure("moves_running").value = moves.running
            advance("moves_done", moves.done)
            advance("moves_failed", moves.failed)
        finder = self._mounted.holes.finder
        for kind, (hits, misses) in (self._cache.looks() | finder.looks()).items():
            advance(figures.cache(kind, "hits"), hits)
            advance(figures.cache(kind, "misses"), misses)
