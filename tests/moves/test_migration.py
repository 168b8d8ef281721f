"""Live migration between two pools of a real cluster, ended, undone and interrupted."""

from __future__ import annotations

import errno
import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
import rbd
import trio

from rbdfs.ceph import live_migration
from rbdfs.errors import NotUnderstood
from rbdfs.metadata.cache import MetadataCache
from rbdfs.metadata.image_header import omap_reader
from rbdfs.metadata.migration_record import State, decode_migration, read_migration
from rbdfs.model.encoding import encode_string
from rbdfs.model.file_name import ImageSpec, file_name
from rbdfs.moves import interrupted
from rbdfs.moves.interrupted import (
    finish,
    pending,
    take_back,
    take_back_alone,
    undo,
)
from rbdfs.moves.migration import Migration
from rbdfs.names.catalog import Catalog
from tests.support.conditions import eventually_async
from tests.support.crashes import trash_source

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rbdfs.ceph.cluster import Cluster
    from rbdfs.model.entry import Entry
    from tests.support.ceph import Ceph

MIB = 1 << 20
SIZE = 16 * MIB
DATA = {0: b"zero", 5 * MIB: b"five", 9 * MIB: b"nine"}
RECORD = bytes.fromhex(
    "0301 3d000000 01 0300000000000000 00000000 04000000 70323234 0c000000"
    "313363333332616437373138 00000000 0000000000000000 00 00 01 00000000 00 00000000"
)


class Place:
    """A pool, as a client other than rbdfs sees it."""

    def __init__(self, ceph: Ceph, ioctx: Any) -> None:
        self.ceph = ceph
        self.ioctx = ioctx
        self.pool: str = ioctx.name

    def spec(self, name: str) -> ImageSpec:
        return ImageSpec(self.pool, "", name)

    def names(self) -> list[str]:
        return list(rbd.RBD().list(self.ioctx))

    def trash(self) -> list[str]:
        listing = self.ceph.rbd("trash", "ls", "--all", "--format=json", self.pool)
        return [entry["name"] for entry in json.loads(listing)]

    def open(self, name: str, **options: Any) -> Any:
        return rbd.Image(self.ioctx, name, **options)

    def make(self, name: str, *, snapshot: bool = True) -> None:
        rbd.RBD().create(self.ioctx, name, SIZE)
        with self.open(name) as image:
            for off, data in DATA.items():
                image.write(data, off)
            if snapshot:
                image.create_snap("before")
                image.protect_snap("before")
                image.write(b"late", 0)
            image.metadata_set("owner", "me")

    def check(self, name: str, *, snapshot: bool = True) -> None:
        """Compare with what make() wrote."""
        with self.open(name, read_only=True) as image:
            assert read(image) == DATA | ({0: b"late"} if snapshot else {})
            assert image.metadata_get("owner") == "me"
        if snapshot:
            with self.open(name, snapshot="before", read_only=True) as image:
                assert read(image) == DATA
                assert image.is_protected_snap("before")


def read(image: Any) -> dict[int, bytes]:
    return {off: image.read(off, 4) for off in DATA}


@pytest.fixture(scope="module")
def target_pool(ceph: Ceph) -> Iterator[str]:
    with ceph.temporary_pool("target") as name:
        yield name


@pytest.fixture
def source(ceph: Ceph, ioctx: Any) -> Place:
    return Place(ceph, ioctx)


@pytest.fixture(scope="module")
def target(ceph: Ceph, target_pool: str) -> Iterator[Place]:
    with ceph.connect() as cluster, cluster.open_ioctx(target_pool) as ioctx:
        yield Place(ceph, ioctx)


async def entry_of(cluster: Cluster, place: Place, name: str) -> Entry:
    catalog = Catalog(cluster, MetadataCache(cluster))
    return await catalog.find(await catalog.directory(place.pool), name.encode())


async def found(cluster: Cluster, place: Place, name: str) -> Migration | None:
    every = await pending(cluster, place.pool)
    return next(
        (migration for migration in every.migrations if migration.source.image == name), None
    )


def mark(place: Place, image_id: str, method: str, argument: bytes = b"") -> None:
    """Call a method of the object class that librbd takes its own steps with."""
    place.ioctx.execute(f"rbd_header.{image_id}", "rbd", method, argument)


def test_a_record_is_decoded() -> None:
    header = decode_migration(RECORD)
    assert (header.is_source, header.pool_id, header.namespace) == (True, 3, "")
    assert (header.image, header.image_id) == ("p224", "13c332ad7718")
    assert header.state is State.PREPARING
    for strange in (RECORD[:-9], RECORD + b"\0", RECORD.replace(b"\0\0\1\0", b"\0\0\x77\0")):
        with pytest.raises(NotUnderstood):
            decode_migration(strange)


async def test_an_image_moves_while_it_is_in_use(
    cluster: Cluster, source: Place, target: Place, image_name: str
) -> None:
    source.make(image_name)
    rbd.RBD().clone(source.ioctx, image_name, "before", source.ioctx, f"{image_name}-clone")
    entry = await entry_of(cluster, source, image_name)
    reports: list[tuple[int, int]] = []
    new = f"{image_name}-new"
    async with Migration.prepared(cluster, entry, target.spec(new)) as migration:
        assert migration.state is State.PREPARED
        assert image_name not in source.names()
        target.check(new)
        with target.open(new) as writer:
            writer.lock_acquire(rbd.RBD_LOCK_MODE_EXCLUSIVE)
            writer.write(b"live", 9 * MIB)
            await migration.execute(lambda done, total: reports.append((done, total)))
            assert writer.is_exclusive_lock_owner()
            # Opened now, they stay right; opened before execute they would read zeros.
            snapshot = target.open(new, snapshot="before", read_only=True)
            clone = source.open(f"{image_name}-clone", read_only=True)
            await migration.commit()
            assert read(writer) == DATA | {0: b"late", 9 * MIB: b"live"}
            writer.write(b"nine", 9 * MIB)
        assert read(snapshot) == read(clone) == DATA
        snapshot.close()
        clone.close()
    target.check(new)
    assert reports
    assert all(done <= total == SIZE >> 22 for done, total in reports)
    assert (source.names(), source.trash()) == ([f"{image_name}-clone"], [])
    assert await pending(cluster, source.pool) == ([], {})
    rbd.RBD().remove(source.ioctx, f"{image_name}-clone")


async def test_what_is_in_use_does_not_move(
    ceph: Ceph, cluster: Cluster, source: Place, target: Place, image_name: str
) -> None:
    async def refused(code: int, name: str = image_name) -> None:
        entry = await entry_of(cluster, source, image_name)
        with pytest.raises(OSError, match=image_name) as caught:
            async with Migration.prepared(cluster, entry, target.spec(name)):
                pass
        assert caught.value.errno == code
        source.check(image_name)
        assert await found(cluster, source, image_name) is None

    source.make(image_name)
    with source.open(image_name):
        await refused(errno.EBUSY)
    rbd.RBD().clone(source.ioctx, image_name, "before", target.ioctx, f"{image_name}-clone")
    with target.open(f"{image_name}-clone"):
        await refused(errno.EBUSY)
    await refused(errno.EEXIST, f"{image_name}-clone")
    ceph.rbd("lock", "add", str(source.spec(image_name)), "mine")
    await refused(errno.EBUSY)


async def test_a_clone_that_is_open_keeps_the_source(
    cluster: Cluster, source: Place, target: Place, image_name: str
) -> None:
    source.make(image_name)
    rbd.RBD().clone(source.ioctx, image_name, "before", source.ioctx, f"{image_name}-clone")
    entry = await entry_of(cluster, source, image_name)
    async with Migration.prepared(cluster, entry, target.spec(image_name)) as migration:
        with source.open(f"{image_name}-clone") as clone:
            await migration.execute()
            with pytest.raises(OSError, match="watched") as caught:
                await migration.commit()
            assert caught.value.errno == errno.EBUSY
            assert read(clone) == DATA
        await migration.commit()
    target.check(image_name)


@pytest.mark.parametrize("used", [False, True])
async def test_an_error_undoes_what_nobody_has_used(
    cluster: Cluster,
    source: Place,
    target: Place,
    image_name: str,
    used: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    source.make(image_name)
    entry = await entry_of(cluster, source, image_name)

    async def fail() -> None:
        async with Migration.prepared(cluster, entry, target.spec(image_name)) as migration:
            migration.used = used
            await migration.execute()
            raise OSError(errno.EIO, "of the caller")

    with pytest.raises(OSError, match="of the caller"):
        await fail()
    assert (image_name in source.names(), image_name in target.names()) == (not used, used)
    assert ("stays in state EXECUTED" in caplog.text) == used
    (target if used else source).check(image_name)
    migration = await found(cluster, source, image_name)
    assert (migration is not None) == used
    if migration is not None:
        await finish(migration)


async def test_abort_keeps_what_was_written(
    cluster: Cluster, source: Place, target: Place, image_name: str
) -> None:
    source.make(image_name)
    entry = await entry_of(cluster, source, image_name)
    async with Migration.prepared(cluster, entry, target.spec(image_name)) as migration:
        with target.open(image_name) as image:
            image.write(b"live", 5 * MIB)
            with pytest.raises(OSError, match="aborting") as caught:
                await migration.abort()
            assert caught.value.errno == errno.EBUSY
        await migration.execute()
        await migration.abort()
    assert image_name not in target.names()
    with source.open(image_name, read_only=True) as image:
        assert image.id() == entry.image_id
        assert read(image) == DATA | {0: b"late", 5 * MIB: b"live"}


EXECUTE_HALF = """
import os, sys, rados, rbd
with rados.Rados(conffile=sys.argv[1]) as cluster, cluster.open_ioctx(sys.argv[2]) as ioctx:
    print(cluster.get_addrs(), flush=True)
    rbd.RBD().migration_execute(ioctx, sys.argv[3], lambda done, total: done and os._exit(9))
"""


@pytest.mark.parametrize("end", [finish, undo], ids=["finished", "undone"])
async def test_a_client_is_killed_while_it_copies(
    ceph: Ceph, cluster: Cluster, source: Place, target: Place, image_name: str, end: Any
) -> None:
    source.make(image_name)
    entry = await entry_of(cluster, source, image_name)
    rbd.RBD().migration_prepare(source.ioctx, image_name, target.ioctx, image_name)
    command = [sys.executable, "-c", EXECUTE_HALF, str(ceph.conf), target.pool, image_name]
    killed = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    assert killed.returncode == 9, killed.stderr
    migration = await found(cluster, source, image_name)
    assert migration is not None
    assert (migration.source, migration.target) == (
        source.spec(image_name),
        target.spec(image_name),
    )
    assert (migration.state, migration.source_id) == (State.EXECUTING, entry.image_id)
    target.check(image_name)
    # Otherwise it counts as a user of the target for 30 s.
    address = killed.stdout.decode().strip()
    ceph.blocklist_add(address)
    await end(migration)
    ceph.blocklist_rm(address)
    here, away = (target, source) if end is finish else (source, target)
    here.check(image_name)
    assert image_name not in away.names() + away.trash()
    assert await found(cluster, source, image_name) is None


@pytest.mark.parametrize("with_target", [True, False])
async def test_interrupted_while_being_prepared(
    cluster: Cluster, source: Place, target: Place, image_name: str, with_target: bool
) -> None:
    """librbd marks the source, makes the target, and only then marks it."""
    source.make(image_name, snapshot=False)
    entry = await entry_of(cluster, source, image_name)
    assert entry.image_id is not None
    rbd.RBD().migration_prepare(source.ioctx, image_name, target.ioctx, image_name)
    with target.open(image_name, read_only=True) as image:
        target_id = image.id()
    mark(target, target_id, "migration_remove")
    preparing = bytes([State.PREPARING]) + encode_string(b"")
    mark(source, entry.image_id, "migration_set_state", preparing)
    if not with_target:
        rbd.RBD().remove(target.ioctx, image_name)
    migration = await found(cluster, source, image_name)
    assert migration is not None
    assert migration.state is State.PREPARING
    with pytest.raises(OSError, match="can only be undone"):
        await finish(migration)
    await undo(migration)
    source.check(image_name, snapshot=False)
    assert image_name not in target.names() + target.trash()
    assert await found(cluster, source, image_name) is None


@pytest.mark.parametrize(
    ("image", "how_far"),
    [
        (b"vm", "trashed"),
        (b"vm-unnamed", "unnamed"),
        (b"vm-listed", "listed"),
        (b"\xff", "trashed"),
        (b"@a/b%\n", "trashed"),
    ],
)
async def test_interrupted_before_the_source_is_marked(
    cluster: Cluster, source: Place, target: Place, image: bytes, how_far: str
) -> None:
    """It is in the trash then, and no command of Ceph gets it out."""
    name = image.decode("utf-8", "surrogateescape")
    rbd.RBD().create(source.ioctx, image, SIZE)
    with rbd.Image(source.ioctx, image) as opened:
        opened.write(b"data", 0)
        opened.create_snap("before")
        image_id = opened.id()
    trash_source(source.ioctx, image, image_id, how_far)
    spec = source.spec(name)
    assert await pending(cluster, source.pool) == ([], {image_id: spec})
    if how_far == "trashed":
        with pytest.raises(rbd.Error):
            rbd.RBD().migration_abort(source.ioctx, image)
        with pytest.raises(rbd.Error):
            rbd.RBD().trash_restore(source.ioctx, image_id, image)
    await take_back(cluster, spec, image_id)
    with rbd.Image(source.ioctx, image, read_only=True) as opened:
        assert opened.read(0, 4) == b"data"
        assert [snap["name"] for snap in opened.list_snaps()] == ["before"]
    assert source.trash() == []
    assert await pending(cluster, source.pool) == ([], {})
    async with Migration.prepared(
        cluster, await entry_of(cluster, source, file_name(name).decode()), target.spec("there")
    ) as migration:
        await migration.execute()
        await migration.commit()
    with target.open("there") as moved:
        moved.remove_snap("before")
    rbd.RBD().remove(target.ioctx, "there")


async def test_a_source_that_is_not_marked_and_whose_name_is_taken(
    cluster: Cluster, source: Place, image_name: str
) -> None:
    """What `rbd trash restore --image` takes out under another name."""
    source.make(image_name, snapshot=False)
    with source.open(image_name, read_only=True) as image:
        image_id = image.id()
    trash_source(source.ioctx, image_name.encode(), image_id)
    rbd.RBD().create(source.ioctx, image_name, MIB)
    with pytest.raises(OSError, match=image_name) as caught:
        await take_back(cluster, source.spec(image_name), image_id)
    assert caught.value.errno == errno.EEXIST
    with source.open(image_name, read_only=True) as image:
        assert image.size() == MIB
    rbd.RBD().trash_restore(source.ioctx, image_id, f"{image_name}-back")
    source.check(f"{image_name}-back", snapshot=False)


async def test_nothing_is_taken_back_that_is_watched(
    cluster: Cluster,
    source: Place,
    target: Place,
    image_name: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Who has it open may be about to mark it."""
    monkeypatch.setattr(interrupted, "_WATCH_S", 0.05)
    source.make(image_name, snapshot=False)
    with source.open(image_name, read_only=True) as image:
        image_id = image.id()
    spec = source.spec(image_name)
    trash_source(source.ioctx, image_name.encode(), image_id)

    async def refused() -> bool:
        return "stays in the trash" in caplog.text

    async with trio.open_nursery() as nursery:
        with rbd.Image(source.ioctx, image_id=image_id):
            nursery.start_soon(take_back_alone, cluster, spec, image_id)
            await eventually_async(refused)
            assert image_name not in source.names()
    source.check(image_name, snapshot=False)
    # One that got further meanwhile is left alone.
    rbd.RBD().migration_prepare(source.ioctx, image_name, target.ioctx, image_name)
    await take_back_alone(cluster, spec, image_id)
    assert image_name not in source.names()
    rbd.RBD().migration_abort(target.ioctx, image_name)
    await take_back_alone(cluster, spec, image_id)
    source.check(image_name, snapshot=False)


async def test_interrupted_while_being_committed(
    cluster: Cluster, source: Place, target: Place, image_name: str
) -> None:
    """librbd unmarks the target first, and has no command for what is left then."""
    source.make(image_name)
    entry = await entry_of(cluster, source, image_name)
    assert entry.image_id is not None
    rbd.RBD().migration_prepare(source.ioctx, image_name, target.ioctx, image_name)
    rbd.RBD().migration_execute(target.ioctx, image_name)
    with target.open(image_name, read_only=True) as image:
        target_id = image.id()
    mark(target, target_id, "migration_remove")
    with pytest.raises(rbd.InvalidArgument):
        rbd.RBD().migration_commit(target.ioctx, image_name)
    migration = await found(cluster, source, image_name)
    assert migration is not None
    assert (migration.state, migration.target_id) == (State.EXECUTED, target_id)
    with pytest.raises(OSError, match="can only be finished"):
        await undo(migration)
    await finish(migration)
    target.check(image_name)
    assert image_name not in source.names() + source.trash()
    reader = omap_reader(cluster.bridge, await cluster.ioctx(source.pool))
    with pytest.raises(FileNotFoundError):
        await read_migration(reader, entry.image_id)


async def test_the_last_trace_of_a_commit_that_died(
    ceph: Ceph, cluster: Cluster, source: Place, image_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    source.make(image_name, snapshot=False)
    with source.open(image_name, read_only=True) as image:
        image_id = image.id()
    trash_source(source.ioctx, image_name.encode(), image_id)
    source.ioctx.remove_object(f"rbd_header.{image_id}")
    assert await found(cluster, source, image_name) is None
    # What other tests have left in the pool is theirs.
    assert image_id not in (await pending(cluster, source.pool)).unmarked
    command = f"rbd trash rm {source.pool}/{image_id}"
    assert f"`{command}`" in caplog.text
    ceph.rbd("trash", "rm", "--no-progress", f"{source.pool}/{image_id}")
    assert image_name not in source.trash()


async def test_the_source_is_kept_where_the_target_is_gone(
    cluster: Cluster, source: Place, target: Place, image_name: str
) -> None:
    source.make(image_name, snapshot=False)
    rbd.RBD().migration_prepare(source.ioctx, image_name, target.ioctx, image_name)
    rbd.RBD().migration_execute(target.ioctx, image_name)
    with target.open(image_name, read_only=True) as image:
        target_id = image.id()
    mark(target, target_id, "migration_remove")
    rbd.RBD().remove(target.ioctx, image_name)
    migration = await found(cluster, source, image_name)
    assert migration is not None
    with pytest.raises(OSError, match="can only be"):
        await finish(migration)
    with rbd.Image(source.ioctx, image_id=migration.source_id, read_only=True) as image:
        assert read(image) == DATA


async def test_a_committed_source_does_not_come_back(
    cluster: Cluster,
    source: Place,
    target: Place,
    image_name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever removes it dies after it was unmarked: no mount takes it for one to be restored."""
    source.make(image_name, snapshot=False)
    rbd.RBD().migration_prepare(source.ioctx, image_name, target.ioctx, image_name)
    rbd.RBD().migration_execute(target.ioctx, image_name)
    with target.open(image_name, read_only=True) as image:
        mark(target, image.id(), "migration_remove")
    migration = await found(cluster, source, image_name)
    assert migration is not None

    def die(ioctx: Any, entry: Entry) -> None:
        ioctx.execute(f"rbd_header.{entry.image_id}", "rbd", "migration_remove", b"")
        raise OSError(errno.EIO, "dead")

    monkeypatch.setattr(live_migration, "remove_committed", die)
    with pytest.raises(OSError, match="dead"):
        await finish(migration)
    # What other tests have left pending in the pool is theirs.
    left = await pending(cluster, source.pool)
    assert migration.source_id not in {*left.unmarked, *(one.source_id for one in left.migrations)}
    target.check(image_name, snapshot=False)
    source.ceph.rbd("trash", "rm", "--no-progress", f"{source.pool}/{migration.source_id}")
    assert image_name not in source.trash()
