"""How a mount is put together and, in reverse, taken apart; run.py serves and ends it."""

from __future__ import annotations

import contextlib
import logging
import os
from functools import partial
from typing import TYPE_CHECKING

import pyfuse3
import trio

from rbdfs.ceph.aio import AioBridge
from rbdfs.ceph.background import background
from rbdfs.ceph.cluster import Cluster
from rbdfs.ceph.lock_mode import lock_mode
from rbdfs.ceph.opener import PythonOpener
from rbdfs.ceph.pool_threads import in_own_thread
from rbdfs.files.holes import Holes
from rbdfs.files.table import HandleTable
from rbdfs.files.timestamps import Timestamps
from rbdfs.files.unfinished import UnfinishedFiles
from rbdfs.fuse.begun_requests import BegunRequests
from rbdfs.fuse.directory_handles import OpenDirectories
from rbdfs.fuse.file_reports import FileReports
from rbdfs.fuse.mounted import Mounted
from rbdfs.fuse.operations import Operations
from rbdfs.keeper.estate import Kind
from rbdfs.kernel.mount import Mount
from rbdfs.metadata.cache import MetadataCache
from rbdfs.metadata.data_finder import DataFinder
from rbdfs.metadata.lineage import Lineages
from rbdfs.metadata.stamps import HeaderStamps
from rbdfs.model.inode_table import InodeTable
from rbdfs.moves.copiers import Copiers
from rbdfs.moves.executor import Executor
from rbdfs.moves.moves import Moves
from rbdfs.names.catalog import Catalog
from rbdfs.names.clones import Clones
from rbdfs.names.image_report import ImageReports
from rbdfs.names.manage import Management
from rbdfs.names.partitions import PartitionTables
from rbdfs.names.xattrs import Xattrs
from rbdfs.server import takeover
from rbdfs.server.data_paths import data_path
from rbdfs.server.gauges import Gauges
from rbdfs.server.meters import count_start
from rbdfs.server.root import find_root
from rbdfs.server.run import Serving
from rbdfs.server.start_deadline import StartDeadline

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from rbdfs.config.mount_options import MountOptions
    from rbdfs.files.data_path import DataPath
    from rbdfs.keeper.estate import Estate
    from rbdfs.server.keeper_link import Link
    from rbdfs.server.meters import SharedMeters
    from rbdfs.server.waiting import Trouble

log = logging.getLogger(__name__)


async def serve(
    options: MountOptions, keeping: Link, predecessor: Estate | None, meters: SharedMeters
) -> int | None:
    """Mount and serve until the mount is gone, a signal ends it, or another server is to go on.

    Returns the exit code, or None in the last case. Goes on with what the server before has left in
    *predecessor*, if there was one; counts in *meters*. Raises UserError, with nothing mounted.
    """
    async with contextlib.AsyncExitStack() as stack:
        deadline = stack.enter_context(StartDeadline(options.connect_timeout_s, keeping.gave_up))
        connection = _connection(options, meters, deadline.tries)
        cluster = await stack.enter_async_context(connection)
        fenced = await _fence(cluster, keeping, options, predecessor)
        catalog, lineages, cache = _catalog(cluster, options)
        # OSDs of Ceph 18 and later do not answer a client that has no capability for them.
        asks = f"are its OSDs up, and has client.{cluster.user} caps for them?"
        deadline.tries(f"reading {options.source} ({asks})")
        root = await find_root(cluster, catalog, options, predecessor)
        keeping.rooted(root)
        deadline.tries("connecting a second client")
        opened = data_path(options, cluster, predecessor, meters)
        path = await stack.enter_async_context(opened)
        keeping.connected_as(sorted({cluster.address, path.opener.address}))
        deadline.over()
        timestamps = Timestamps(stamps := HeaderStamps(cluster, cache))
        facts = (lineages, timestamps, catalog.changed, stamps.mark_growing)
        handles = HandleTable(path, keeping, *facts, lock_mode=lock_mode(options.lock))
        inodes = InodeTable(root)
        executor = Executor(catalog, handles, Copiers(cluster, path.opener, keeping, options))
        make_moves = partial(Moves, cluster, catalog, handles, inodes, keeping, executor)
        moves = await stack.enter_async_context(_moving(make_moves, options, predecessor))
        nursery = await stack.enter_async_context(background())
        # Closed before the moves are interrupted, as Copier.stoppable() wants it.
        await stack.enter_async_context(_closing(handles, moves))
        directories = OpenDirectories(catalog, keeping)
        told = _told(cluster, catalog, cache, options, handles)
        begun = {} if predecessor is None else predecessor.of_kind(Kind.REQUEST)
        requests = BegunRequests(path, keeping, begun, cluster.number)
        parts = (options, inodes, catalog, handles, directories, *told, lineages, requests)
        management, clones = _management(cluster, catalog, options)
        holes = Holes(DataFinder(cluster))
        mounted = Mounted(*parts, stamps, timestamps, holes, management, clones, moves)
        mounted.metering = meters.metering
        if predecessor is not None:
            await takeover.restore(mounted, keeping, predecessor, nursery, fenced=fenced)
        look = partial(_look_around, mounted, nursery, cluster, cache, new=predecessor is None)
        return await _answer(mounted, path, keeping, predecessor, look, cluster.trouble)


async def _answer(
    mounted: Mounted,
    path: DataPath,
    keeping: Link,
    predecessor: Estate | None,
    look_around: Callable[[], None],
    trouble: Trouble,
) -> int | None:
    """Answer the kernel until the end; return as serve() does."""
    count_start(mounted.metering, predecessor)
    operations = Operations(mounted, keeping)
    async with _device(mounted.options, keeping, predecessor) as (descriptor, mount):
        mounted.pages.device = descriptor
        look_around()
        init = b"" if predecessor is None else predecessor.init
        connected = path.connected(descriptor, operations, init)
        async with connected as device, _session(operations, device):
            serving = Serving(operations, path, keeping, mounted.freshness, mount, trouble)
            return await serving.run()


def _connection(
    options: MountOptions, meters: SharedMeters, tries: Callable[[str], None]
) -> contextlib.AbstractAsyncContextManager[Cluster]:
    bridge, seconds = AioBridge(meters.metering.answered), options.connect_timeout_s
    return Cluster.connect(options.ceph_settings, bridge, seconds, tries=tries)


def _told(
    cluster: Cluster,
    catalog: Catalog,
    cache: MetadataCache,
    options: MountOptions,
    handles: HandleTable,
) -> tuple[Xattrs, FileReports]:
    """Return what tells of a file by its extended attributes."""
    images = ImageReports(cluster, catalog, cache, options.ceph)
    return Xattrs(cluster, catalog, options.ceph), FileReports(images, handles)


def _look_around(
    mounted: Mounted, nursery: trio.Nursery, cluster: Cluster, cache: MetadataCache, *, new: bool
) -> None:
    """Begin what is done beside serving: a look at the rights of a *new* mount, and at remains.

    Not before all is restored that grows here, and the kernel can be told.
    """
    nursery.start_soon(Gauges(mounted, cluster, cache).run)
    if mounted.options.read_only:
        return
    if new:
        nursery.start_soon(takeover.warn_unless_fencing_is_allowed, cluster)
    if mounted.management is not None:
        # The last server may not have come far.
        known = (cluster, mounted.catalog, cache, mounted.handles, mounted.pages.drop)
        mounted.unfinished = UnfinishedFiles(*known, exclusive=mounted.options.exclusive)
        nursery.start_soon(mounted.unfinished.finish, mounted.inodes.entry(pyfuse3.ROOT_INODE))


def _catalog(cluster: Cluster, options: MountOptions) -> tuple[Catalog, Lineages, MetadataCache]:
    cache = MetadataCache(cluster)
    lineages = Lineages(cluster, cache)
    tables = None
    if options.partitions:
        tables = PartitionTables(
            PythonOpener(cluster), lineages, options.sector_size, cluster.background
        )
    catalog = Catalog(
        cluster,
        cache,
        lineages,
        snapshots=options.snapshots,
        partition_tables=tables,
        data_pool=options.data_pool,
    )
    return catalog, lineages, cache


def _management(
    cluster: Cluster, catalog: Catalog, options: MountOptions
) -> tuple[Management, Clones] | tuple[None, None]:
    if not options.manage:
        return None, None
    management = Management(
        cluster,
        catalog,
        data_pool=options.data_pool,
        object_size=options.object_size,
        remove_snapshots=options.remove_snapshots,
    )
    return management, Clones(cluster, catalog, management, options.data_pool)


async def _fence(
    cluster: Cluster, keeping: Link, options: MountOptions, predecessor: Estate | None
) -> bool:
    """Fence whom this server succeeds, as *cluster* knows then; return whether others had."""
    if predecessor is None:
        cluster.dead = frozenset(await takeover.fence_remains(cluster, keeping, options.mountpoint))
        return False
    cluster.dead = frozenset(predecessor.addresses)
    return await takeover.fence(cluster, keeping, predecessor)


@contextlib.asynccontextmanager
async def _closing(handles: HandleTable, moves: Moves | None) -> AsyncIterator[None]:
    try:
        yield
    finally:
        with trio.CancelScope(shield=True):
            if moves is not None:
                await moves.thaw()
            await handles.close()


@contextlib.asynccontextmanager
async def _moving(
    make_moves: Callable[[trio.Nursery, str | None], Moves],
    options: MountOptions,
    predecessor: Estate | None,
) -> AsyncIterator[Moves | None]:
    """Yield what moves images, in a managed mount; interrupt it at the end of the context."""
    async with background() as nursery:
        moves = make_moves(nursery, options.data_pool) if options.manage else None
        if moves is not None and predecessor is None:
            nursery.start_soon(moves.survey)
        yield moves


@contextlib.asynccontextmanager
async def _device(
    options: MountOptions, keeping: Link, predecessor: Estate | None
) -> AsyncIterator[tuple[int, Mount]]:
    """Yield the kernel's descriptor and which mount it is, mounting unless it is there already.

    What a server that has crashed had read is on its way again then, ready to be read.
    """
    if predecessor is None:
        descriptor, mount = await in_own_thread(keeping.mount)
    else:
        assert predecessor.fuse is not None
        descriptor = predecessor.fuse
        mount = predecessor.mount
    mount = mount or Mount.found(options.mountpoint)
    if predecessor is not None and predecessor.crashed:
        takeover.have_sent_again(descriptor, predecessor, mount)
    try:
        yield descriptor, mount
    finally:
        with trio.CancelScope(shield=True):
            await in_own_thread(keeping.detach, mount, descriptor)
        os.close(descriptor)


@contextlib.asynccontextmanager
async def _session(operations: Operations, device: str) -> AsyncIterator[None]:
    # libfuse takes a descriptor for a mount point that is mounted already.
    pyfuse3.init(operations, device, {"fsname=rbdfs"})
    try:
        yield
    finally:
        # Closes its descriptor of the device.
        pyfuse3.close(unmount=False)
