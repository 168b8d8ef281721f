"""Open files on real images: who shares what, who holds what, and what is left behind."""

from __future__ import annotations

import contextlib
import errno
import uuid
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import rbd
import trio
import trio.testing

from rbdfs.ceph.aio import AioBridge
from rbdfs.ceph.cluster import Cluster
from rbdfs.ceph.image import Image
from rbdfs.ceph.opener import PythonOpener
from rbdfs.config.ceph_settings import CephSettings
from rbdfs.errors import Fenced
from rbdfs.files.claim import Claims
from rbdfs.files.data_path import PythonDataPath
from rbdfs.files.handle import Handle, Use
from rbdfs.files.interplay import quiesced
from rbdfs.files.keeping import OpenFile, Unremembered
from rbdfs.files.reopening import Checks, Failed
from rbdfs.files.shared_image import SharedImage
from rbdfs.files.table import HandleTable
from rbdfs.model.entry import Entry, Key
from rbdfs.model.relocation import Relocation
from tests.support.fakes import FakeContent, FakeImage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import rados

    from rbdfs.ceph.opener import Opener
    from tests.support.ceph import Ceph

SIZE = 1 << 20
DEADLINE_S = 60.0
EXCLUSIVE = rbd.RBD_LOCK_MODE_EXCLUSIVE
BLOCK = 4096
PATTERN = b"".join(number.to_bytes(4, "big") for number in range(SIZE // 4))


@dataclass(frozen=True)
class Images:
    """Makes images full of PATTERN in one pool."""

    ceph: Ceph
    ioctx: rados.Ioctx
    pool_id: int

    def create(self, *, features: int = 61) -> Entry:
        name = f"image-{uuid.uuid4().hex[:8]}"
        rbd.RBD().create(self.ioctx, name, SIZE, old_format=False, features=features)
        with rbd.Image(self.ioctx, name) as image:
            image.write(PATTERN, 0)
            key = Key(self.pool_id, "", image.id())
        return Entry(key, pool=self.ioctx.name, image=name, size=SIZE)

    def create_snap(self, entry: Entry) -> Entry:
        with rbd.Image(self.ioctx, entry.image) as image:
            image.create_snap("s")
            key = entry.key._replace(snap_id=image.snap_get_id("s"))
        return replace(entry, key=key, snap="s")

    def size(self, entry: Entry) -> int:
        with rbd.Image(self.ioctx, entry.image, read_only=True) as image:
            return int(image.size())

    def content(self, entry: Entry, off: int, length: int) -> bytes:
        with rbd.Image(self.ioctx, entry.image, read_only=True) as image:
            return bytes(image.read(off, length))

    async def watchers(self, entry: Entry) -> list[str]:
        return await trio.to_thread.run_sync(self.ceph.watchers, entry.spec)

    async def lock_owners(self, entry: Entry) -> list[str]:
        return await trio.to_thread.run_sync(self.ceph.lock_owners, entry.spec)


@pytest.fixture(scope="module")
def images(ceph: Ceph, pool: str) -> Iterator[Images]:
    with ceph.connect() as cluster, cluster.open_ioctx(pool) as ioctx:
        yield Images(ceph, ioctx, cluster.pool_lookup(pool))


class CountingLibrary:
    """Opens as another library does, and counts."""

    def __init__(self, opener: Opener) -> None:
        self.address = opener.address
        self.addresses = opener.addresses
        self.opened = 0
        self._opener = opener

    async def open(self, entry: Entry, *, read_only: bool) -> Image:
        self.opened += 1
        return await self._opener.open(entry, read_only=read_only)


class RecordingDataPath(PythonDataPath):
    """Knows by which image each file is served."""

    def __init__(self, opener: Opener) -> None:
        super().__init__(opener)
        self.served: dict[int, Image | None] = {}

    def serve(self, handle: Handle) -> None:
        self.served[handle.fh] = handle.shared.image

    def forget(self, handle: Handle) -> None:
        # One that was released before its image was open again was never served.
        self.served.pop(handle.fh, None)


class RecordingKeeping(Unremembered):
    """Knows which files a successor would find open."""

    def __init__(self) -> None:
        self.open: set[int] = set()
        self.heard: list[str] = []

    def opened(self, handle: Handle) -> None:
        self.open.add(handle.fh)
        self.heard.append("opened")

    def grown(self, fh: int, length: int) -> None:
        assert fh in self.open
        self.heard.append(f"{length}")

    def released(self, fh: int) -> None:
        self.open.discard(fh)


@dataclass(frozen=True)
class Client:
    """A client of its own, without librbd's cache: a read asks the OSD."""

    table: HandleTable
    opener: CountingLibrary
    data_path: RecordingDataPath
    keeping: RecordingKeeping


@dataclass(frozen=True)
class Clients:
    """Connects clients of one kind."""

    ceph: Ceph
    native: bool

    @contextlib.asynccontextmanager
    async def connect(
        self, *, user: str = "admin", exclusive: bool = True
    ) -> AsyncIterator[HandleTable]:
        async with self.connect_recorded(user=user, exclusive=exclusive) as client:
            yield client.table

    @contextlib.asynccontextmanager
    async def connect_recorded(
        self, *, user: str = "admin", exclusive: bool = True
    ) -> AsyncIterator[Client]:
        pairs = (("rbd_cache", "false"),)
        settings = CephSettings(user=user, conf=self.ceph.conf, pairs=pairs)
        with trio.fail_after(DEADLINE_S):
            async with self._opener(settings) as connected:
                opener, keeping = CountingLibrary(connected), RecordingKeeping()
                data_path = RecordingDataPath(opener)
                table = HandleTable(data_path, keeping, lock_mode=EXCLUSIVE if exclusive else None)
                try:
                    yield Client(table, opener, data_path, keeping)
                finally:
                    with trio.CancelScope(shield=True):
                        await table.close()
                assert (data_path.served, keeping.open) == ({}, set())

    @contextlib.asynccontextmanager
    async def _opener(self, settings: CephSettings) -> AsyncIterator[Opener]:
        if self.native:
            from rbdfs.ceph.native_opener import NativeOpener

            async with NativeOpener.connect(settings, AioBridge(), ()) as native_library:
                yield native_library
        else:
            async with Cluster.connect(settings, AioBridge(), 10.0) as cluster:
                yield PythonOpener(cluster)


@pytest.fixture(params=["librbd", "native"])
def clients(request: pytest.FixtureRequest, ceph: Ceph) -> Clients:
    if request.param == "native":
        pytest.importorskip("rbdfs.datapath.native", reason="the extension was not built")
    return Clients(ceph, request.param == "native")


@pytest.fixture
async def client(clients: Clients) -> AsyncIterator[Client]:
    async with clients.connect_recorded() as client:
        yield client


@pytest.fixture
def table(client: Client) -> HandleTable:
    return client.table


async def refused(table: HandleTable, entry: Entry, *, writable: bool) -> int | None:
    """The errno of an open that fails."""
    with pytest.raises(OSError, match=entry.whole.spec) as caught:
        await table.open(entry, 1, writable=writable)
    return caught.value.errno


# One image, opened as often as needed.


async def test_readers_share_an_image(table: HandleTable, images: Images) -> None:
    entry = images.create()
    first = await table.open(entry, 7, writable=False)
    second = await table.open(entry, 7, writable=False)
    assert first.fh != second.fh
    assert first.shared.usable() is second.shared.usable()
    assert (table[first.fh], table[second.fh], len(table)) == (first, second, 2)
    assert table.length(entry) == first.length == SIZE
    assert await images.watchers(entry) == [], "a reader disturbs nobody"
    assert await table.release(first.fh) is first
    assert await second.read(BLOCK, BLOCK) == PATTERN[BLOCK : 2 * BLOCK]
    await table.release(second.fh)
    assert (len(table), table.images(), table.length(entry)) == (0, [], None)


async def test_opens_at_the_same_time_open_once(client: Client, images: Images) -> None:
    entry, table = images.create(), client.table
    handles: list[Handle] = []

    async def open_one() -> None:
        handles.append(await table.open(entry, 1, writable=False))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(open_one)
    assert client.opener.opened == 1
    assert len({handle.fh for handle in handles}) == len(table) == 20
    for handle in handles:
        assert await handle.read(0, 8) == PATTERN[:8]


async def test_images_do_not_mix(table: HandleTable, images: Images) -> None:
    one, other = images.create(), images.create()
    first = await table.open(one, 1, writable=True)
    second = await table.open(other, 2, writable=True)
    await first.write(0, b"first")
    await second.write(0, b"other")
    assert (await first.read(0, 5), await second.read(0, 5)) == (b"first", b"other")


async def test_an_image_and_its_snapshot_are_two(table: HandleTable, images: Images) -> None:
    entry = images.create()
    snap = images.create_snap(entry)
    head = await table.open(entry, 1, writable=True)
    await head.write(0, b"changed")
    old = await table.open(snap, 2, writable=False)
    assert await old.read(0, 8) == PATTERN[:8]
    assert await head.read(0, 8) == b"changed" + PATTERN[7:8]


async def test_reopening_after_the_last_release(table: HandleTable, images: Images) -> None:
    """An open that comes while the last user leaves finds an open image, never a closed one."""
    entry = images.create()

    async def use(number: int) -> None:
        handle = await table.open(entry, number, writable=number % 3 == 0)
        assert await handle.read(0, 8) == PATTERN[:8]
        await table.release(handle.fh)

    for _ in range(3):
        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(use, number)
    assert (len(table), table.images()) == (0, [])
    assert await images.watchers(entry) == []


# Writers among readers.


async def test_a_writer_makes_the_image_writable_and_leaves_no_trace(
    table: HandleTable, images: Images
) -> None:
    entry = images.create()
    reader = await table.open(entry, 1, writable=False)
    writer = await table.open(entry, 1, writable=True)
    assert reader.shared is writer.shared
    assert len(await images.watchers(entry)) == 1
    await writer.write(0, b"written")
    assert await reader.read(0, 7) == b"written"
    await table.release(writer.fh)
    assert await images.watchers(entry) == []
    assert await images.lock_owners(entry) == []
    assert await reader.read(0, 7) == b"written"
    assert reader.shared.usable().read_only


async def test_the_data_path_serves_the_image_that_is_open(client: Client, images: Images) -> None:
    """One that was replaced is closed: to serve a file by it would be the end of the file."""
    table, served = client.table, client.data_path.served
    entry = images.create()
    reader = await table.open(entry, 1, writable=False)
    assert served == {reader.fh: reader.shared.usable()}
    writer = await table.open(entry, 1, writable=True)
    assert served == dict.fromkeys([reader.fh, writer.fh], writer.shared.usable())
    assert not writer.shared.usable().read_only
    await table.release(writer.fh)
    assert served == {reader.fh: reader.shared.usable()}
    assert reader.shared.usable().read_only
    await table.release(reader.fh)
    assert served == {}


async def test_the_end_closes_each_image_once(client: Client, images: Images) -> None:
    entry, table = images.create(), client.table
    writer = await table.open(entry, 1, writable=True)
    for _ in range(20):
        await table.open(entry, 1, writable=False)
    await writer.write(0, b"x")
    opened = client.opener.opened
    await table.close()
    assert client.opener.opened == opened, "not for the readers that the last writer leaves"
    assert (len(table), table.images()) == (0, [])
    assert client.keeping.open == set()
    assert await images.watchers(entry) == []
    assert images.content(entry, 0, 1) == b"x"


async def test_the_last_writer_counts(table: HandleTable, images: Images) -> None:
    entry = images.create()
    await table.open(entry, 1, writable=False)
    first = await table.open(entry, 1, writable=True)
    second = await table.open(entry, 1, writable=True)
    image = first.shared.usable()
    await table.release(first.fh)
    assert second.shared.usable() is image
    assert await second.write(0, b"x") == 1
    await table.release(second.fh)
    assert await images.watchers(entry) == []


async def test_a_writer_comes_while_a_read_is_in_flight(
    ceph: Ceph, table: HandleTable, images: Images
) -> None:
    entry = images.create()
    reader = await table.open(entry, 1, writable=False)
    before, read, opened = reader.shared.usable(), [], []

    async def read_block() -> None:
        read.append(await reader.read(0, BLOCK))

    async def open_writer() -> None:
        opened.append(await table.open(entry, 1, writable=True))

    async with trio.open_nursery() as nursery:
        with ceph.stalled("osd.0"):
            nursery.start_soon(read_block)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(open_writer)
            await trio.testing.wait_all_tasks_blocked()
            assert (read, opened) == ([], [])
    assert read == [PATTERN[:BLOCK]]
    assert opened[0].shared.usable() is not before
    assert await opened[0].write(0, b"w") == 1


async def test_reads_go_on_while_writers_come_and_go(table: HandleTable, images: Images) -> None:
    entry, reads = images.create(), 0
    reader = await table.open(entry, 1, writable=False)
    stop = trio.Event()

    async def read(off: int) -> None:
        nonlocal reads
        while not stop.is_set():
            assert await reader.read(off, BLOCK) == PATTERN[off : off + BLOCK]
            reads += 1

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(read, number * BLOCK)
        for _ in range(3):
            writer = await table.open(entry, 1, writable=True)
            before = reads
            await writer.write(SIZE - 1, b"w")
            await table.release(writer.fh)
            assert reads > before
        stop.set()
    assert await images.watchers(entry) == []


# Other clients.


async def test_exclusive_keeps_the_lock_and_refuses_other_clients(
    clients: Clients, table: HandleTable, images: Images
) -> None:
    entry = images.create()
    writer = await table.open(entry, 1, writable=True)
    assert len(await images.lock_owners(entry)) == 1, "taken before the first write"
    async with clients.connect() as others:
        assert await refused(others, entry, writable=True) == errno.EBUSY
        assert (len(others), others.images()) == (0, [])
        assert len(await images.watchers(entry)) == 1
        reader = await others.open(entry, 1, writable=False)
        assert await refused(others, entry, writable=True) == errno.EBUSY
        assert await reader.read(0, 8) == PATTERN[:8], "who reads already goes on"
        await writer.write(0, b"undisturbed")
        assert len(await images.lock_owners(entry)) == 1
        await table.release(writer.fh)
        later = await others.open(entry, 1, writable=True)
        await later.write(0, b"now me")


async def test_without_the_feature_the_watchers_tell(
    clients: Clients, table: HandleTable, images: Images
) -> None:
    entry = images.create(features=rbd.RBD_FEATURE_LAYERING)
    writer = await table.open(entry, 1, writable=True)
    async with clients.connect() as others:
        assert await refused(others, entry, writable=True) == errno.EBUSY
        await table.release(writer.fh)
        await others.open(entry, 1, writable=True)


async def test_auto_lets_clients_take_turns(clients: Clients, images: Images) -> None:
    entry = images.create()
    async with clients.connect(exclusive=False) as one, clients.connect(exclusive=False) as other:
        first = await one.open(entry, 1, writable=True)
        second = await other.open(entry, 1, writable=True)
        await first.write(0, b"first")
        await second.write(5, b"second")
        await first.write(11, b"first again")
        await first.flush()
        await second.flush()
    assert images.content(entry, 0, 22) == b"firstsecondfirst again"


async def test_a_client_without_permission_reads_and_cannot_write(
    clients: Clients, images: Images
) -> None:
    entry = images.create()
    async with clients.connect(user="ro") as table:
        assert await refused(table, entry, writable=True) == errno.EROFS
        assert (len(table), table.images()) == (0, [])
        reader = await table.open(entry, 1, writable=False)
        assert await refused(table, entry, writable=True) == errno.EROFS
        assert await reader.read(0, 8) == PATTERN[:8]
        assert len(table) == 1


async def test_a_reader_is_not_refused_for_a_writer_beside_it(
    clients: Clients, images: Images
) -> None:
    entry = images.create()
    async with clients.connect(user="ro") as table, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(read_once, table, entry)
            nursery.start_soon(write_refused, table, entry)


async def read_once(table: HandleTable, entry: Entry) -> None:
    handle = await table.open(entry, 1, writable=False)
    assert await handle.read(0, 8) == PATTERN[:8]
    await table.release(handle.fh)


async def write_refused(table: HandleTable, entry: Entry) -> None:
    assert await refused(table, entry, writable=True) == errno.EROFS


# What is left behind.


@pytest.mark.parametrize("writable", [False, True])
async def test_a_failed_open_leaves_nothing(
    table: HandleTable, images: Images, writable: bool
) -> None:
    entry = images.create()
    missing = replace(entry, key=entry.key._replace(image_id="nosuchid"), image="gone")
    assert await refused(table, missing, writable=writable) == errno.ENOENT
    assert (len(table), table.images()) == (0, [])
    handle = await table.open(entry, 1, writable=writable)
    assert await handle.read(0, 8) == PATTERN[:8]


async def test_a_snapshot_that_was_removed_cannot_be_opened(
    table: HandleTable, images: Images
) -> None:
    entry = images.create()
    snap = images.create_snap(entry)
    with rbd.Image(images.ioctx, entry.image) as image:
        image.remove_snap("s")
    assert await refused(table, snap, writable=False) == errno.ENOENT
    assert (len(table), table.images()) == (0, [])


@pytest.mark.parametrize("writable", [False, True])
async def test_a_cancelled_open_leaves_nothing(
    ceph: Ceph, table: HandleTable, images: Images, writable: bool
) -> None:
    entry = images.create()
    scope = trio.CancelScope()

    async def open_cancelled() -> None:
        with scope:
            await table.open(entry, 1, writable=writable)

    async with trio.open_nursery() as nursery:
        with ceph.stalled("osd.0"):
            nursery.start_soon(open_cancelled)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
    if scope.cancelled_caught:
        assert (len(table), table.images()) == (0, [])
        assert await images.watchers(entry) == []
    else:
        # Cancelled too late for anything but success: then there is a file, and it is whole.
        (handle,) = table
        assert await handle.read(0, 8) == PATTERN[:8]


async def test_a_cancelled_open_waits_for_no_other(
    ceph: Ceph, table: HandleTable, images: Images
) -> None:
    """Thousands may be cancelled while one of them is in librbd."""
    entry, scopes = images.create(), [trio.CancelScope() for _ in range(20)]
    waiting = len(scopes)

    async def open_cancelled(scope: trio.CancelScope) -> None:
        nonlocal waiting
        with scope:
            await table.open(entry, 1, writable=True)
        waiting -= 1

    async with trio.open_nursery() as nursery:
        with ceph.stalled("osd.0"):
            nursery.start_soon(partial(table.open, entry, 1, writable=False))
            await trio.testing.wait_all_tasks_blocked()
            for scope in scopes:
                nursery.start_soon(open_cancelled, scope)
            await trio.testing.wait_all_tasks_blocked()
            for scope in scopes:
                scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            assert waiting <= 1
    (handle,) = table
    assert await handle.read(0, 8) == PATTERN[:8]
    await table.release(handle.fh)
    assert table.images() == []
    assert await images.watchers(entry) == []


async def test_a_cancelled_open_takes_nothing_from_one_that_goes_on(
    table: HandleTable, images: Images
) -> None:
    """Both wait for the end of what was lost before they open the image anew."""
    entry = images.create()
    lost = await table.open(entry, 1, writable=True)
    table.lose(lost.shared, Fenced("fenced"))
    opened: list[Handle] = []

    async def open_one() -> None:
        opened.append(await table.open(entry, 1, writable=True))

    async def open_cancelled(scope: trio.CancelScope) -> None:
        with scope:
            await open_one()

    scope = trio.CancelScope()
    async with trio.open_nursery() as nursery, lost.shared.quiesced():
        nursery.start_soon(open_one)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(open_cancelled, scope)
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
    (first,) = opened
    await open_one()
    assert opened[1].shared is first.shared is table.shared(entry)


async def test_an_open_that_waits_for_the_end_of_what_was_lost_follows_a_move(
    table: HandleTable, images: Images
) -> None:
    """The image is moved meanwhile: whoever opens it opens it where it is by then."""
    entry, there = images.create(), images.create()
    lost = await table.open(entry, 1, writable=True)
    table.lose(lost.shared, Fenced("fenced"))
    opened: list[Handle] = []

    async def open_one() -> None:
        opened.append(await table.open(entry, 1, writable=True))
        async with table.borrowed(entry, writable=True) as shared:
            assert shared is opened[0].shared

    async with trio.open_nursery() as nursery, lost.shared.quiesced():
        nursery.start_soon(open_one)
        await trio.testing.wait_all_tasks_blocked()
        async with quiesced(table, entry.image_key):
            table.relocate(Relocation(entry.image_key, there, {}))
    (handle,) = opened
    assert (handle.entry.key, handle.shared.entry.key) == (there.key, there.key)
    assert await images.watchers(entry) == []
    assert len(await images.watchers(there)) == 1


async def test_a_cancelled_release_closes_all_the_same(table: HandleTable, images: Images) -> None:
    """RELEASE comes once: what it leaves open stays open, with its lock, until rbdfs ends."""
    entry = images.create()
    handle = await table.open(entry, 1, writable=True)
    with trio.CancelScope() as scope:
        scope.cancel()
        await table.release(handle.fh)
    assert (len(table), table.images()) == (0, [])
    assert await images.watchers(entry) == []


async def test_a_cancelled_release_of_the_last_writer_gives_up_the_lock(
    table: HandleTable, images: Images
) -> None:
    entry = images.create()
    reader = await table.open(entry, 1, writable=False)
    writer = await table.open(entry, 1, writable=True)
    with trio.CancelScope() as scope:
        scope.cancel()
        await table.release(writer.fh)
    assert await images.watchers(entry) == []
    assert await reader.read(0, 8) == PATTERN[:8]


async def test_close_closes_everything(clients: Clients, images: Images) -> None:
    entries = [images.create() for _ in range(3)]
    async with clients.connect() as table:
        for entry in entries:
            handle = await table.open(entry, 1, writable=True)
            await table.open(entry, 1, writable=False)
            await handle.write(0, b"at the end")
        await table.close()
        assert (len(table), table.images()) == (0, [])
        for entry in entries:
            assert await images.watchers(entry) == []
            assert images.content(entry, 0, 10) == b"at the end"


async def test_borrowing_an_image(table: HandleTable, images: Images) -> None:
    entry = images.create()
    async with table.borrowed(entry, writable=True) as shared:
        assert not shared.usable().read_only
        assert len(table) == 0
    assert table.images() == []
    reader = await table.open(entry, 1, writable=False)
    with pytest.raises(ValueError, match="mistake"):
        async with table.borrowed(entry, writable=True):
            raise ValueError("mistake")
    assert await images.watchers(entry) == []
    assert await reader.read(0, 8) == PATTERN[:8]


async def test_a_file_that_is_not_open(table: HandleTable, images: Images) -> None:
    handle = await table.open(images.create(), 1, writable=True)
    await table.release(handle.fh)
    with pytest.raises(OSError, match="is not open") as caught:
        table[handle.fh]
    assert caught.value.errno == errno.EBADF
    with pytest.raises(OSError, match="is not open") as caught:
        await table.release(handle.fh)
    assert caught.value.errno == errno.EBADF
    for use in (handle.read(0, 1), handle.write(0, b"x"), handle.flush()):
        with pytest.raises(OSError, match=handle.entry.spec) as caught:
            await use
        assert caught.value.errno == errno.EBADF


# Partitions, and files that grow.


async def test_a_partition_is_a_window_of_the_image(table: HandleTable, images: Images) -> None:
    whole = images.create()
    key = whole.key._replace(partition=2)
    partition = replace(whole, key=key, offset=8 * BLOCK, size=2 * BLOCK)
    handle = await table.open(partition, 1, writable=True)
    assert handle.length == 2 * BLOCK
    assert await handle.read(0, SIZE) == PATTERN[8 * BLOCK : 10 * BLOCK]
    assert await handle.read(2 * BLOCK, BLOCK) == b""
    assert await handle.write(2 * BLOCK - 3, b"abcdef") == 3
    with pytest.raises(OSError, match="past the end") as caught:
        await handle.write(2 * BLOCK, b"next")
    assert caught.value.errno == errno.ENOSPC
    await handle.flush()
    around = images.content(whole, 10 * BLOCK - 4, 8)
    assert around == PATTERN[10 * BLOCK - 4 : 10 * BLOCK - 3] + b"abc" + PATTERN[40960:40964]


async def test_the_whole_and_a_part_are_not_both_written(
    table: HandleTable, images: Images
) -> None:
    whole = images.create()
    parts = [
        replace(whole, key=whole.key._replace(partition=number), offset=number * BLOCK, size=BLOCK)
        for number in (1, 2)
    ]
    handle = await table.open(whole, 1, writable=True)
    assert await refused(table, parts[0], writable=True) == errno.EBUSY
    reader = await table.open(parts[0], 2, writable=False)
    assert await reader.read(0, 8) == PATTERN[BLOCK : BLOCK + 8]
    await table.release(handle.fh)
    for part in parts:
        await table.open(part, 2, writable=True)
    assert await refused(table, whole, writable=True) == errno.EBUSY
    await table.open(whole, 1, writable=False)


async def test_a_growing_file_has_its_true_size_in_the_end(
    table: HandleTable, images: Images
) -> None:
    entry = images.create()
    handle = await table.open(entry, 1, writable=True)
    handle.shared.start_growth()
    reader = await table.open(entry, 1, writable=False)
    assert handle.length == SIZE
    assert await handle.write(SIZE + 5, b"beyond") == 6
    assert handle.length == reader.length == SIZE + 11
    assert await reader.read(SIZE, 100) == bytes(5) + b"beyond"
    await table.release(handle.fh)
    assert images.size(entry) == SIZE + 11
    assert await reader.read(SIZE + 5, 100) == b"beyond"


async def test_a_write_tells_the_keeper_what_it_must_know(client: Client, images: Images) -> None:
    """A word for each write that makes the file longer, all that is known of it for each resize."""
    handle = await client.table.open(images.create(), 1, writable=True)
    await client.table.open(handle.entry, 1, writable=True)
    handle.shared.start_growth()
    await handle.write(SIZE, b"one")
    del client.keeping.heard[:]
    await handle.write(SIZE + 3, b"two")
    await handle.write(SIZE, b"again")
    await handle.extend(SIZE + 1)
    assert client.keeping.heard == [f"{SIZE + 6}"]


async def test_a_trim_beside_a_write_keeps_what_is_written(client: Client, images: Images) -> None:
    handle = await client.table.open(images.create(), 1, writable=True)
    handle.shared.start_growth()
    growth, image = handle.shared.growth, handle.shared.usable()
    assert growth is not None
    async with growth.written_up_to(image, 2 * SIZE):
        assert growth.being_written
        # close(2) leaves it; what is trimmed all the same stays above the write.
        await handle.shared.trim()
        assert image.size > 2 * SIZE
        await growth.trim(image)
        assert image.size == 2 * SIZE
        await image.write(2 * SIZE - 4, b"last")
    await handle.shared.trim()
    assert (handle.length, images.size(handle.entry)) == (2 * SIZE, 2 * SIZE)
    assert images.content(handle.entry, 2 * SIZE - 4, 4) == b"last"


# Taking over from another server.


def left(entry: Entry, fh: int, *, writable: bool, length: int | None = None) -> OpenFile:
    """What another server has left of an open file."""
    return OpenFile(fh, 1, entry, writable, length=length)


async def passes(_entry: Entry) -> None:
    """A check that lets every image pass."""


async def all_pass(_handles: list[Handle]) -> list[Failed]:
    """A check that lets every file pass."""
    return []


UNHINDERED = Checks(passes, all_pass)


async def test_restored_files_of_an_image_open_it_once(client: Client, images: Images) -> None:
    entry, table = images.create(), client.table
    for fh in (7, 3):
        table.restore(left(entry, fh, writable=fh == 3), None)
    assert client.data_path.served == {}
    async with trio.open_nursery() as nursery:
        await table.reopen(nursery, UNHINDERED)
        # A newcomer waits for the same.
        newcomer = await table.open(entry, 1, writable=True)
        assert newcomer.fh not in (3, 5, 7)
        for fh in (3, 7):
            assert await (await table.ready(fh)).read(0, 8) == PATTERN[:8]
    assert client.opener.opened == 1
    assert set(client.data_path.served) == {3, 7, newcomer.fh}
    await table.release(3)
    await table.release(newcomer.fh)
    assert await images.watchers(entry) == []


async def test_a_restored_file_of_which_another_handle_has_grown_it_more(
    table: HandleTable, images: Images
) -> None:
    entry = images.create()
    for fh, length in ((1, SIZE // 2), (2, SIZE - 5), (3, 17)):
        table.restore(left(entry, fh, writable=True, length=length), None)
    assert table.length(entry) == SIZE - 5
    async with trio.open_nursery() as nursery:
        await table.reopen(nursery, UNHINDERED)
        assert (await table.ready(3)).length == SIZE - 5
    for fh in (1, 2, 3):
        await table.release(fh)
    assert images.size(entry) == SIZE - 5


async def test_a_restored_file_that_cannot_be_opened(table: HandleTable, images: Images) -> None:
    entry, other = images.create(), images.create()
    rbd.RBD().remove(images.ioctx, entry.image)
    table.restore(left(entry, 1, writable=False), None)
    table.restore(left(other, 2, writable=True), OSError(errno.EIO, "lost"))
    async with trio.open_nursery() as nursery:
        await table.reopen(nursery, UNHINDERED)
        with pytest.raises(OSError, match="was removed") as caught:
            await (await table.ready(1)).read(0, 8)
        assert caught.value.errno == errno.ESTALE
    with pytest.raises(OSError, match="lost"):
        await (await table.ready(2)).closing()
    # Whoever opens it from now on has nothing to do with that.
    assert await (await table.open(other, 1, writable=True)).read(0, 8) == PATTERN[:8]
    assert await refused(table, entry, writable=False) == errno.ENOENT


async def test_what_is_lost_is_told_once(
    table: HandleTable, images: Images, caplog: pytest.LogCaptureFixture
) -> None:
    """However many files are open on it, whoever finds it, and however many servers follow."""
    lost, lost_before = images.create(), images.create()
    error = OSError(errno.EIO, "lost")
    for fh in (1, 2):
        table.restore(left(lost, fh, writable=True), error)
        before = replace(left(lost_before, fh + 2, writable=True), error=errno.ESHUTDOWN)
        table.restore(before, None)
    assert [record.message for record in caplog.records] == [
        f"open files of {lost.spec} are lost: {error}"
    ]
    # Opened anew it can be lost anew.
    handle = await table.open(lost, 1, writable=True)
    for _ in range(2):
        table.lose(handle.shared, error)
    assert len(caplog.records) == 2


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_restored_file_that_a_check_refuses(
    table: HandleTable, images: Images, when: str
) -> None:
    entry, other = images.create(), images.create()
    table.restore(left(entry, 1, writable=False), None)
    table.restore(left(other, 2, writable=False), None)

    async def check(checked: Entry) -> None:
        if checked.key == entry.key:
            raise OSError(errno.ESTALE, "not now")

    async def check_opened(handles: list[Handle]) -> list[Failed]:
        await check(handles[0].entry)
        return []

    checks = Checks(check, all_pass) if when == "before" else Checks(passes, check_opened)

    async with trio.open_nursery() as nursery:
        await table.reopen(nursery, checks)
        with pytest.raises(OSError, match="not now"):
            await (await table.ready(1)).read(0, 8)
        assert await (await table.ready(2)).read(0, 8) == PATTERN[:8]
    await table.release(1)
    newcomer = await table.open(entry, 1, writable=True)
    assert await newcomer.read(0, 8) == PATTERN[:8]


async def test_restored_files_that_a_check_refuses_beside_others(
    client: Client, images: Images
) -> None:
    """Who reads, and who opens the image meanwhile, goes on without them."""
    table, entry = client.table, images.create()
    part = replace(entry, key=entry.key._replace(partition=1), offset=BLOCK, size=BLOCK)
    for fh in (1, 2):
        table.restore(left(part, fh, writable=True), None)
    table.restore(left(entry, 3, writable=False), None)
    newcomers: list[Handle] = []

    async def check(handles: list[Handle]) -> list[Failed]:
        assert [handle.fh for handle in handles] == [1, 2, 3]
        newcomers.append(await table.open(entry, 1, writable=False))
        # The kernel does not wait for a RELEASE, and so it may come at any time.
        await table.release(2)
        assert await images.watchers(entry) != []
        return [Failed(handles[:2], OSError(errno.ESTALE, "moved"))]

    async with trio.open_nursery() as nursery:
        await table.reopen(nursery, Checks(passes, check))
        lost = await table.ready(1)
    with pytest.raises(OSError, match="moved"):
        await lost.write(0, b"x")
    assert lost.left().error == errno.ESTALE
    # Nobody writes any more.
    assert await images.watchers(entry) == []
    for fh in (3, newcomers[0].fh):
        assert await (await table.ready(fh)).read(0, 8) == PATTERN[:8]
    assert client.data_path.served[1] is None
    await table.release(1)
    assert [shared.entry.key for shared in table.images()] == [entry.key]
    assert await (await table.open(part, 1, writable=True)).write(0, b"x") == 1


async def test_a_restored_file_is_released_before_it_is_open(
    client: Client, images: Images
) -> None:
    entry, table = images.create(), client.table
    table.restore(left(entry, 1, writable=True), None)
    table.restore(left(entry, 2, writable=True), None)
    async with trio.open_nursery() as nursery:
        await table.reopen(nursery, UNHINDERED)
        await table.release(1)
        await table.release(2)
    assert len(table) == 0
    assert table.images() == []
    assert await images.watchers(entry) == []


# What there is to flush.


@contextlib.contextmanager
def fake_handle() -> Iterator[tuple[Handle, FakeImage]]:
    entry = Entry(Key(1, "", "id"), pool="pool", image="vm1", size=SIZE)
    with FakeImage(FakeContent(bytearray(SIZE))) as fake:
        # A library that must not be asked: the image is open already.
        opener: Any = None
        claims = Claims(opener, Unremembered(), lock_mode=None)
        shared = SharedImage(claims, entry, changed=lambda _shared: None)
        shared.image = Image(AioBridge(), fake, entry.spec, size=fake.size(), read_only=False)
        yield Handle(1, 1, entry, shared, Use.WRITE_WHOLE, lambda _fh, _length: None), fake


async def test_what_was_written_is_dirty_until_it_is_flushed() -> None:
    with fake_handle() as (handle, _):
        assert not handle.dirty
        await handle.write(0, b"x")
        assert handle.dirty
        await handle.flush()
        assert not handle.dirty


async def test_a_failed_flush_is_reported_and_tried_again() -> None:
    with fake_handle() as (handle, fake):
        await handle.write(0, b"x")
        fake.errors["flush"] = errno.ENOSPC
        for _ in range(2):
            with pytest.raises(OSError, match="pool/vm1: flush: ") as caught:
                await handle.closing()
            assert caught.value.errno == errno.ENOSPC
            assert handle.dirty
        del fake.errors["flush"]
        await handle.closing()
        assert not handle.dirty


async def test_a_write_that_failed_may_have_written() -> None:
    with fake_handle() as (handle, fake):
        fake.errors["write"] = errno.EIO
        with pytest.raises(OSError, match="write"):
            await handle.write(0, b"x")
        assert handle.dirty


async def test_a_write_beside_a_flush_stays_dirty() -> None:
    """The flush does not cover it: librbd orders them by their submission."""
    with fake_handle() as (handle, fake):
        await handle.write(0, b"x")
        async with trio.open_nursery() as nursery:
            with fake.held():
                nursery.start_soon(handle.flush)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(handle.write, 1, b"y")
                await trio.testing.wait_all_tasks_blocked()
        assert handle.dirty


async def test_closing_a_file_that_the_data_path_gets_when_it_is_trimmed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The mark that it is dirty goes with it; close(2) has to tell of the flush all the same."""
    with fake_handle() as (handle, fake):

        async def trim() -> None:
            handle.dirty = False

        monkeypatch.setattr(SharedImage, "trim", lambda _shared: trim())
        await handle.write(0, b"x")
        fake.errors["flush"] = errno.ENOSPC
        with pytest.raises(OSError, match="pool/vm1: flush: "):
            await handle.closing()


async def test_closing_a_file_that_wrote_nothing_flushes_nothing() -> None:
    with fake_handle() as (handle, fake):
        await handle.closing()
        assert fake.submitted == []
