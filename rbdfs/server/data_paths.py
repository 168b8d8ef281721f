"""The data path that a mount was asked for."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from rbdfs.ceph.opener import PythonOpener
from rbdfs.files.data_path import PythonDataPath

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from rbdfs.ceph.cluster import Cluster
    from rbdfs.config.mount_options import MountOptions
    from rbdfs.files.data_path import DataPath
    from rbdfs.keeper.estate import Estate
    from rbdfs.server.meters import SharedMeters

log = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def data_path(
    options: MountOptions, cluster: Cluster, predecessor: Estate | None, meters: SharedMeters
) -> AsyncIterator[DataPath]:
    """Yield the data path that *options* ask for, and say in the log which it is."""
    # Where it was not built, the command line has chosen already.
    if options.data_path == "python":
        log.info("data path: python")
        yield PythonDataPath(PythonOpener(cluster))
        return
    from rbdfs.ceph.native_opener import NativeOpener
    from rbdfs.fuse.native_path import NativePath

    log.info("data path: native")
    others = [cluster.address, *cluster.dead]
    async with NativeOpener.connect(options.ceph_settings, cluster.bridge, others) as opener:
        yield NativePath(
            opener,
            ignore_sync=options.cache == "unsafe",
            ledger=None if predecessor is None else predecessor.ledger,
            killed=predecessor is not None and predecessor.killed,
            meters=meters.descriptor,
            metering=meters.metering,
        )
