"""Moving an image to another pool, namespace or name: RBD live migration, step by step.

prepare makes the target, which from then on stands for the image and reads from the source what it
does not have yet; execute copies; commit removes the source. Snapshots, image-meta and the links
of clones move along; image id, snapshot ids and timestamps are new ones.

What was measured with librbd 16.2.15, and what a user of this module has to see to:

* prepare fails with EBUSY while anybody has the image open for writing, this process included.
* A read-only image or snapshot of the source that stays open goes on showing the source, without
  what is written to the target, and after commit it answers with zeros and success.
* The same zeros after commit are what read-only images of snapshots of the target, and images of
  clones even if they are open for writing, answer if they were opened before execute was complete.
  Opened after execute, they are right. Images of the target's head are right in any case.
* abort copies back what was written to the target, but not zeros: where the target was discarded
  or zeroed since prepare, the source's old data is there again. New sizes and snapshots are lost.
* Where source or target is in a namespace, a clone of format 1 (the default of clusters that have
  not set require-min-compat-client to mimic) is no child of the target any more, so that its parent
  snapshot can be removed; from a namespace to the default one, librbd aborts the process.
* So: close what is open on the image, prepare, open it at the target, execute, open everything
  but writers at the target anew, and commit. Once the target was written to, the way back is to
  commit and to move it again.
"""

from __future__ import annotations

import contextlib
import logging
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import trio

from rbdfs.ceph import live_migration
from rbdfs.ceph.blocking_image import changing
from rbdfs.errors import ImageGone, Missing, NotSupported
from rbdfs.metadata.cache import MetadataCache
from rbdfs.metadata.image_header import omap_reader
from rbdfs.metadata.image_meta import image_name
from rbdfs.metadata.lineage import Lineages
from rbdfs.metadata.migration_record import State, read_migration
from rbdfs.model.entry import Entry, Key
from rbdfs.model.file_name import ImageSpec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from rbdfs.ceph.cluster import Cluster, Ioctx
    from rbdfs.metadata.migration_record import MigrationHeader

    T = TypeVar("T")
    Progress = Callable[[int, int], None]

log = logging.getLogger(__name__)


class Undone(ImageGone):
    """The migration was aborted by another client: the source is the image again."""


class Migration:
    """One image on its way, from prepared() or found by interrupted.pending().

    Attributes:
        source, target: where it comes from and goes to.
        source_id, target_id: image ids.
        state: how far it is; None once it is committed or aborted.
        used: to be set by whoever lets somebody write to the target.
    """

    def __init__(
        self, cluster: Cluster, source: ImageSpec, source_id: str, target: ImageSpec
    ) -> None:
        self.source = source
        self.source_id = source_id
        self.target = target
        self.target_id = ""
        self.state: State | None = State.PREPARING
        self.used = False
        self.cluster = cluster

    @contextlib.contextmanager
    def on(self, cluster: Cluster) -> Iterator[None]:
        """Take its steps by another client for the time of the context."""
        own, self.cluster = self.cluster, cluster
        try:
            yield
        finally:
            self.cluster = own

    def __str__(self) -> str:
        return f"migration of {self.source} to {self.target}"

    @classmethod
    @contextlib.asynccontextmanager
    async def prepared(
        cls, cluster: Cluster, source: Entry, target: ImageSpec, *, data_pool: str | None = None
    ) -> AsyncIterator[Migration]:
        """Prepare the migration of image *source*; commit() belongs into the context.

        A context that is left by an OSError before commit() aborts, unless the target is in use
        or was. One that is cancelled leaves everything as it is, to be finished or undone later.
        Without *data_pool* the target keeps the source's, if that has one.

        Raises OSError: EBUSY where the image is in use, or a clone of it; EEXIST for the target.
        """
        if source.image_id is None:
            raise NotSupported(f"{source.spec} is of format 1, which cannot be moved")
        spec = ImageSpec(source.pool, source.namespace, source.image)
        migration = cls(cluster, spec, source.image_id, target)
        await migration._prepare(source, data_pool)
        try:
            yield migration
        except OSError:
            await migration._give_up()
            raise

    async def execute(self, progress: Progress | None = None) -> None:
        """Copy to the target what it does not have yet, while it is in use.

        *progress* is called in the Trio thread with the number of objects done and of all.
        librbd cannot be told to stop: a cancellation waits for the end. Raises OSError.
        """
        self.state = State.EXECUTING
        await self._at_target("executing", live_migration.execute, self._on_progress(progress))
        self.state = State.EXECUTED

    async def commit(self) -> None:
        """Remove the source.

        Raises OSError: EINVAL before execute(), EBUSY where a clone is open for writing: it may
        have been opened before execute() was complete, and would read zeros.
        """
        await self.refuse_open_clones()
        await self._at_target("committing", live_migration.commit, self._on_progress(None))
        self.state = None

    async def abort(self) -> None:
        """Undo: make the source the image again, with what was written to the target but zeros.

        Discards, zeroing, resizes and snapshots since prepare are lost: harmless only where nobody
        has used the target. Raises OSError: EBUSY while it is open for writing.
        """
        await self._at_target("aborting", live_migration.abort)
        self.state = None

    def _on_progress(self, progress: Progress | None) -> Callable[[int, int], int]:
        token, steps = trio.lowlevel.current_trio_token(), self.cluster.steps

        def report(done: int, total: int) -> None:
            steps.progressed(done, total)
            if progress is not None:
                _report(progress, done, total)

        def on_progress(done: int, total: int) -> int:
            # On a thread of librbd. After the end of the run there is nobody to tell.
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(report, done, total)
            return 0

        return on_progress

    async def _give_up(self) -> None:
        if self.state is None:
            return
        if self.used:
            log.error("%s stays in state %s, to be finished", self, self.state.name)
            return
        try:
            await self.abort()
        except OSError as exc:
            log.error("%s stays in state %s: %s", self, self.state.name, exc)

    async def _prepare(self, source: Entry, data_pool: str | None) -> None:
        ioctx = await self.ioctx(self.source)
        await check_openable(self.cluster, source)
        refuse = partial(live_migration.refuse_locked, ioctx, source, self.cluster.dead)
        await self.in_thread("preparing", refuse)
        await self._refuse_open_clones(self.source, self.source_id)
        target = await self.ioctx(self.target)
        name = self.target.image
        prepare = partial(live_migration.prepare, ioctx, source, target, name, data_pool)
        await self.in_thread("preparing", prepare)
        header = await self.read(self.source, self.source_id)
        made = (target.get_pool_id(), self.target.namespace, name)
        if header is None or (header.pool_id, header.namespace, header.image) != made:
            await self._put_back(target)
            raise Missing(f"{self}: another image has this name now")
        self.target_id, self.state = header.image_id, header.state

    async def _put_back(self, target: Ioctx) -> None:
        """Make the image the source again that was prepared because it has got its name."""
        try:
            abort = partial(live_migration.abort, target, self.target.image)
            await self.in_thread("aborting", abort)
        except OSError as exc:
            log.error("another image named %s is now %s: %s", self.source, self.target, exc)

    async def _at_target(self, step: str, call: Callable[..., None], *args: object) -> None:
        ioctx = await self.ioctx(self.target)
        # By its id: it may have been renamed since prepare.
        name = await self.in_thread("target", partial(image_name, ioctx, self.target_id))
        await self.in_thread(step, partial(call, ioctx, name, *args))

    async def refuse_open_clones(self) -> None:
        """Raise OSError EBUSY where a clone of the target is open for writing."""
        await self._refuse_open_clones(self.target, self.target_id)

    async def _refuse_open_clones(self, where: ImageSpec, image_id: str) -> None:
        for clone in await self._clones(where, image_id):
            there = await self.cluster.ioctx(clone.pool, clone.namespace)
            # Its header says so, which anybody may have written.
            await check_openable(self.cluster, clone)
            spaces = bool(self.source.namespace or self.target.namespace)
            refuse = partial(live_migration.refuse_clone, there, clone, namespaces=spaces)
            await self.in_thread(f"clone {clone.spec}", refuse)

    async def clones(self) -> list[Entry]:
        """Return the clones of the target, and theirs, to open them by. Raises OSError."""
        return await self._clones(self.target, self.target_id)

    async def _clones(self, where: ImageSpec, image_id: str) -> list[Entry]:
        ioctx = await self.ioctx(where)
        parent = image_entry(ioctx, where, image_id)
        await check_openable(self.cluster, parent)
        clones = []
        list_clones = partial(live_migration.list_clones, ioctx, parent)
        for found in await self.in_thread("clones", list_clones):
            there = await self.cluster.ioctx(found["pool"], found["pool_namespace"])
            spec = ImageSpec(found["pool"], found["pool_namespace"], found["image"])
            clones.append(image_entry(there, spec, found["id"]))
        return clones

    async def read(self, where: ImageSpec, image_id: str) -> MigrationHeader | None:
        """Return the record of *source* or *target*; None where it has none or is not there."""
        try:
            reader = omap_reader(self.cluster.bridge, await self.ioctx(where))
            return await read_migration(reader, image_id)
        except Missing:
            return None

    async def exists(self, where: ImageSpec, image_id: str) -> bool:
        """Tell whether *source* or *target* is there at all, if only in the trash."""
        ioctx = await self.ioctx(where)
        try:
            await self.in_thread("looking", partial(ioctx.stat, f"rbd_header.{image_id}"))
        except Missing:
            return False
        return True

    async def in_thread(self, step: str, call: Callable[[], T]) -> T:
        """Return what a blocking *call* of librbd does; raise OSError for its errors."""
        # Every step may have to wait for either pool.
        pools = f"{self.source.pool} {self.target.pool}"
        return await in_thread(self.cluster, pools, f"{self}: {step}", call)

    async def ioctx(self, where: ImageSpec) -> Ioctx:
        """Return the I/O context of *source* or *target*."""
        return await self.cluster.ioctx(where.pool, where.namespace)


def _report(progress: Progress, done: int, total: int) -> None:
    # What is raised in a callback of Trio's run ends the run.
    try:
        progress(done, total)
    except Exception:
        log.exception("reporting progress failed")


async def check_openable(cluster: Cluster, entry: Entry) -> None:
    """Raise OSError for an image that librbd must not open, as it is now: nothing is remembered."""
    await Lineages(cluster, MetadataCache(cluster)).check(entry)


async def in_thread(cluster: Cluster, pool: str, action: str, call: Callable[[], T]) -> T:
    """Return what a blocking *call* of librbd to *pool* does; raise OSError for its errors."""
    with changing(action):
        return await cluster.steps.run(pool, call)


def image_entry(ioctx: Ioctx, spec: ImageSpec, image_id: str) -> Entry:
    """Return an entry to open the image with *image_id* by."""
    key = Key(ioctx.get_pool_id(), spec.namespace, image_id)
    return Entry(key, spec.pool, spec.namespace, spec.image)
