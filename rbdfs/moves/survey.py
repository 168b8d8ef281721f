"""What migrations there are in the pools of a mount that nobody has ended."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from rbdfs.moves.interrupted import pending, report_pending, take_back_alone

if TYPE_CHECKING:
    from rbdfs.ceph.cluster import Cluster
    from rbdfs.model.entry import Entry
    from rbdfs.names.catalog import Catalog

log = logging.getLogger(__name__)


class Survey:
    """Looks once, when a managed mount starts: each pool and namespace by itself.

    One that the client may not read, or that does not answer, keeps nobody else from being looked
    at.
    """

    def __init__(self, cluster: Cluster, catalog: Catalog) -> None:
        self._cluster = cluster
        self._catalog = catalog

    async def run(self, root: Entry) -> None:
        """Log which migrations out of the pools below *root* nobody has ended yet.

        What no command of Ceph reaches is taken back, once no client has it open.
        """
        try:
            pools = [root.pool] if root.pool else await self._cluster.pools()
        except OSError as exc:
            log.warning("cannot tell whether images are being moved: %s", exc)
            return
        async with trio.open_nursery() as nursery:
            for pool in pools:
                nursery.start_soon(self._look, pool, root.namespace, nursery)
                if not root.namespace:
                    nursery.start_soon(self._look_into_namespaces, pool, nursery)

    async def _look_into_namespaces(self, pool: str, nursery: trio.Nursery) -> None:
        try:
            for _, namespace in await self._catalog.places(await self._catalog.directory(pool)):
                if namespace:
                    nursery.start_soon(self._look, pool, namespace, nursery)
        except OSError as exc:
            log.warning("cannot tell whether images of %s are being moved: %s", pool, exc)

    async def _look(self, pool: str, namespace: str, nursery: trio.Nursery) -> None:
        try:
            found = await pending(self._cluster, pool, namespace)
            for migration in found.migrations:
                report_pending(migration)
            for source_id, source in found.unmarked.items():
                nursery.start_soon(take_back_alone, self._cluster, source, source_id)
        except OSError as exc:
            place = f"{pool}/{namespace}".rstrip("/")
            log.warning("cannot tell whether images of %s are being moved: %s", place, exc)
        except Exception:
            # Nobody awaits this task: what it raised would take the mount down.
            log.exception("looking for migrations in %s/%s failed", pool, namespace)
