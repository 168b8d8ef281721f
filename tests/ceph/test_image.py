"""One open image: the same tests over librbd and over the fake that other tests use."""

from __future__ import annotations

import contextlib
import errno
import itertools
import threading
import uuid
from typing import TYPE_CHECKING, Any, Protocol

import pytest
import rbd
import trio
import trio.testing

from rbdfs.ceph.aio import AioBridge
from rbdfs.ceph.image import Image
from rbdfs.errors import NotOpen, Outgrown
from tests.support.callbacks import called_back
from tests.support.fakes import FakeContent, FakeImage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    import rados

    from rbdfs.ceph.binding import Binding
    from rbdfs.datapath import native
    from tests.support.ceph import Ceph

SIZE = 1 << 20
DEADLINE_S = 30.0
EXCLUSIVE = rbd.RBD_LOCK_MODE_EXCLUSIVE
LOCKABLE = rbd.RBD_FEATURE_LAYERING | rbd.RBD_FEATURE_EXCLUSIVE_LOCK


class Store(Protocol):
    """Where images live. Calls block."""

    pool: str

    def create(self, size: int = SIZE, *, features: int = rbd.RBD_FEATURE_LAYERING) -> str:
        """Make an image; return its name."""

    def create_snap(self, name: str) -> int:
        """Take a snapshot; return its id."""

    def open(self, name: str, *, read_only: bool = False, snap_id: int | None = None) -> Binding:
        """Open an image or a snapshot as the binding does."""


class FakeStore:
    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.pool = "pool"
        self._stack = stack
        self._contents: dict[str, FakeContent] = {}
        self._snap_ids = itertools.count(4)

    def create(self, size: int = SIZE, *, features: int = rbd.RBD_FEATURE_LAYERING) -> str:
        name = f"image-{len(self._contents)}"
        self._contents[name] = FakeContent(bytearray(size), features=features)
        return name

    def create_snap(self, name: str) -> int:
        content = self._contents[name]
        snap_id = next(self._snap_ids)
        content.snaps[snap_id] = bytes(content.data)
        return snap_id

    def open(self, name: str, *, read_only: bool = False, snap_id: int | None = None) -> FakeImage:
        image = FakeImage(self._contents[name], read_only=read_only, snap_id=snap_id)
        return self._stack.enter_context(image)


class RbdStore:
    """Debian's binding."""

    def __init__(self, ioctx: rados.Ioctx) -> None:
        self.pool = ioctx.name
        self._ioctx = ioctx

    def create(self, size: int = SIZE, *, features: int = rbd.RBD_FEATURE_LAYERING) -> str:
        name = f"image-{uuid.uuid4().hex[:8]}"
        rbd.RBD().create(self._ioctx, name, size, old_format=False, features=features)
        return name

    def create_snap(self, name: str) -> int:
        with rbd.Image(self._ioctx, name) as image:
            image.create_snap("s")
            return int(image.snap_get_id("s"))

    def open(self, name: str, *, read_only: bool = False, snap_id: int | None = None) -> Binding:
        image = rbd.Image(self._ioctx, name, read_only=read_only or snap_id is not None)
        if snap_id is not None:
            image.set_snap_by_id(snap_id)
        binding: Binding = image
        return binding


class NativeStore(RbdStore):
    """The binding of the native data path."""

    def __init__(self, ioctx: rados.Ioctx, native_ioctx: native.Ioctx) -> None:
        super().__init__(ioctx)
        self._native_ioctx = native_ioctx

    def open(self, name: str, *, read_only: bool = False, snap_id: int | None = None) -> Binding:
        from rbdfs.datapath import native

        return native.Image(self._native_ioctx, name, snap_id, read_only)


@pytest.fixture(scope="module")
def ioctx(ceph: Ceph, pool: str) -> Iterator[rados.Ioctx]:
    with ceph.connect() as cluster, cluster.open_ioctx(pool) as ioctx:
        yield ioctx


@pytest.fixture(scope="module")
def native_ioctx(ceph: Ceph, pool: str) -> Iterator[native.Ioctx]:
    native = pytest.importorskip("rbdfs.datapath.native", reason="the extension was not built")
    with native.Client("admin", ceph.conf) as client:
        client.connect()
        with client.open_ioctx(pool) as ioctx, called_back(client):
            yield ioctx


@pytest.fixture
def fake_store() -> Iterator[FakeStore]:
    with contextlib.ExitStack() as stack:
        yield FakeStore(stack)


@pytest.fixture(
    params=[
        "fake",
        pytest.param("librbd", marks=pytest.mark.cluster),
        pytest.param("native", marks=pytest.mark.cluster),
    ]
)
def store(request: pytest.FixtureRequest) -> Store:
    if request.param == "fake":
        fake: FakeStore = request.getfixturevalue("fake_store")
        return fake
    ioctx: rados.Ioctx = request.getfixturevalue("ioctx")
    if request.param == "librbd":
        return RbdStore(ioctx)
    return NativeStore(ioctx, request.getfixturevalue("native_ioctx"))


@contextlib.asynccontextmanager
async def opened(
    store: Store, name: str, *, read_only: bool = False, snap_id: int | None = None
) -> AsyncIterator[Image]:
    read_only = read_only or snap_id is not None
    binding = store.open(name, read_only=read_only, snap_id=snap_id)
    image = Image(
        AioBridge(), binding, f"{store.pool}/{name}", size=binding.size(), read_only=read_only
    )
    with trio.fail_after(DEADLINE_S):
        try:
            yield image
        finally:
            with trio.CancelScope(shield=True):
                await image.close()


# The contract.


async def test_what_was_written_is_read(store: Store) -> None:
    name = store.create()
    async with opened(store, name) as image:
        assert image.size == SIZE
        assert await image.read(0, 16) == bytes(16)
        assert await image.write(4095, b"across a page") == 13
        assert await image.read(4090, 24) == bytes(5) + b"across a page" + bytes(6)
        await image.flush()
    async with opened(store, name, read_only=True) as image:
        assert await image.read(4095, 13) == b"across a page"


@pytest.mark.parametrize(
    ("off", "length", "count"),
    [
        (0, SIZE, SIZE),
        (0, SIZE + 1, SIZE),
        (SIZE - 1, 1, 1),
        (SIZE - 1, 4096, 1),
        (SIZE - 512, 1024, 512),
        (SIZE, 1, 0),
        (SIZE + 1, 4096, 0),
        (2**62, 4096, 0),
        (0, 0, 0),
        (SIZE, 0, 0),
    ],
)
async def test_a_read_ends_at_the_end(store: Store, off: int, length: int, count: int) -> None:
    name = store.create()
    async with opened(store, name) as image:
        await image.write(SIZE - 512, b"x" * 512)
        data = await image.read(off, length)
        assert data == (bytes(SIZE - 512) + b"x" * 512)[off : off + length]
        assert len(data) == count


async def test_a_write_across_the_end_is_short(store: Store) -> None:
    name = store.create()
    async with opened(store, name) as image:
        assert await image.write(SIZE - 10, b"0123456789tail") == 10
        assert image.size == SIZE
        assert await image.read(SIZE - 10, 100) == b"0123456789"
        await image.resize(SIZE + 10)
        assert await image.read(SIZE, 10) == bytes(10), "the tail was written nowhere"


@pytest.mark.parametrize("off", [SIZE, SIZE + 1, 2**62])
async def test_a_write_past_the_end_has_no_space(store: Store, off: int) -> None:
    name = store.create()
    async with opened(store, name) as image:
        with pytest.raises(OSError, match=f"{store.pool}/{name}: write {off}~4 ") as caught:
            await image.write(off, b"late")
        assert caught.value.errno == errno.ENOSPC
        assert image.size == SIZE


async def test_an_empty_write_writes_nothing(store: Store) -> None:
    async with opened(store, store.create()) as image:
        assert await image.write(0, b"") == 0
        assert await image.write(SIZE - 1, b"") == 0


async def test_many_requests_in_flight(store: Store) -> None:
    block, count = 4096, 200
    read: dict[int, bytes] = {}

    def content(number: int) -> bytes:
        return number.to_bytes(2, "big") * (block // 2)

    async def read_one(number: int) -> None:
        read[number] = await image.read(number * block, block)

    async with opened(store, store.create(count * block)) as image:
        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(image.write, number * block, content(number))
        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(read_one, number)
    assert read == {number: content(number) for number in range(count)}


async def test_close_waits_for_what_is_in_flight(store: Store) -> None:
    name, written = store.create(), []
    binding = store.open(name)
    image = Image(
        AioBridge(), binding, f"{store.pool}/{name}", size=binding.size(), read_only=False
    )

    async def write(number: int) -> None:
        written.append(await image.write(number * 512, b"w" * 512))

    with trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(write, number)
            await trio.testing.wait_all_tasks_blocked()
            await image.close()
            await trio.testing.wait_all_tasks_blocked()
            assert written == [512] * 100
    async with opened(store, name) as image:
        assert await image.read(0, 51200) == b"w" * 51200


async def test_a_closed_image_refuses_everything(store: Store) -> None:
    name = store.create()
    async with opened(store, name) as image:
        pass
    refused: list[Callable[[], Awaitable[object]]] = [
        lambda: image.read(0, 512),
        lambda: image.write(0, b"x"),
        lambda: image.write_zeroes(0, 4),
        image.flush,
        image.refresh,
        lambda: image.resize(5, shrink=True),
        lambda: image.set_meta("key", "value"),
        lambda: image.remove_meta("key"),
    ]
    for call in refused:
        with pytest.raises(OSError, match=f"{store.pool}/{name}") as caught:
            await call()
        assert caught.value.errno in (errno.EIO, errno.EBADF)
        # By its name: who looks at an image that is closed meanwhile has nothing to tell.
        assert isinstance(caught.value, NotOpen) == (caught.value.errno == errno.EBADF)


async def test_image_meta_is_removed_as_often_as_one_likes(store: Store) -> None:
    async with opened(store, store.create()) as image:
        for _ in range(2):
            await image.set_meta("key", "value")
            await image.remove_meta("key")
            await image.remove_meta("key")


async def test_a_read_only_image_refuses_writes(store: Store) -> None:
    name = store.create()
    async with opened(store, name, read_only=True) as image:
        with pytest.raises(OSError, match=f"{store.pool}/{name}: write 4096~512: ") as caught:
            await image.write(4096, bytes(512))
        assert caught.value.errno == errno.EROFS
        with pytest.raises(OSError, match="resize to 4096") as caught:
            await image.resize(4096, shrink=True)
        assert caught.value.errno == errno.EROFS
        for change in (image.set_meta("key", "value"), image.remove_meta("key")):
            with pytest.raises(OSError, match=f"{store.pool}/{name}: (set|remove) key") as caught:
                await change
            assert caught.value.errno == errno.EROFS
        assert f"{store.pool}/{name}" in str(caught.value)
        with pytest.raises(OSError, match=f"{store.pool}/{name}: write_zeroes 0~512: ") as caught:
            await image.write_zeroes(0, 512)
        assert caught.value.errno == errno.EROFS
        assert image.size == SIZE
        await image.flush()
        assert await image.read(0, 4) == bytes(4)


async def test_a_snapshot_keeps_its_content_and_its_size(store: Store) -> None:
    name = store.create()
    async with opened(store, name) as head:
        await head.write(0, b"before")
        snap_id = store.create_snap(name)
        await head.write(0, b"after!")
        await head.resize(2 * SIZE)
        async with opened(store, name, snap_id=snap_id) as snap:
            assert snap.size == SIZE
            await head.write(0, b"later!")
            assert await snap.read(0, 6) == b"before"
            assert await snap.read(SIZE, 1) == b""
            with pytest.raises(OSError, match=": write ") as caught:
                await snap.write(0, b"never")
            assert caught.value.errno == errno.EROFS
        assert await head.read(0, 6) == b"later!"


async def test_zeros_replace_what_was_there_and_nothing_else(store: Store) -> None:
    """Down to single bytes, where a discard would leave what is less than its granule."""
    name = store.create()
    async with opened(store, name) as image:
        await image.write(0, b"x" * SIZE)
        await image.write_zeroes(100, 1000)
        await image.write_zeroes(SIZE - 5, 1 << 40)
        await image.write_zeroes(SIZE + 5, 10)
        await image.write_zeroes(7, 0)
        assert image.size == SIZE
        whole = await image.read(0, SIZE)
    assert whole == b"x" * 100 + bytes(1000) + b"x" * (SIZE - 1105) + bytes(5)


async def test_zeros_in_requests_that_librbd_takes(store: Store) -> None:
    """One of 2 GiB and more is refused or cut by librbd."""
    name = store.create(5 << 30) if not isinstance(store, FakeStore) else store.create()
    async with opened(store, name) as image:
        end = image.size
        await image.write(end - 512, b"x" * 512)
        await image.write_zeroes(0, end - 256)
        assert await image.read(end - 512, 512) == bytes(256) + b"x" * 256


async def test_resize_changes_what_can_be_read_and_written(store: Store) -> None:
    async with opened(store, store.create()) as image:
        await image.write(0, b"x" * SIZE)
        await image.resize(SIZE + 4096)
        assert image.size == SIZE + 4096
        assert await image.read(SIZE - 4, 4100) == b"xxxx" + bytes(4096)
        assert await image.write(SIZE + 4092, b"12345678") == 4
        await image.resize(SIZE // 2, shrink=True)
        assert image.size == SIZE // 2
        assert await image.read(SIZE // 2 - 4, 100) == b"xxxx"
        await image.resize(SIZE)
        assert await image.read(SIZE // 2, 4) == bytes(4), "what was cut off is gone"


async def test_refresh_sees_what_another_has_resized(store: Store) -> None:
    name = store.create()
    async with opened(store, name) as image, opened(store, name) as other:
        await other.resize(2 * SIZE)
        assert image.size == SIZE
        await image.refresh()
        assert image.size == 2 * SIZE
        assert await image.read(2 * SIZE - 4, 100) == bytes(4)


async def test_one_that_another_has_made_larger_is_not_cut(store: Store) -> None:
    name = store.create()
    async with opened(store, name) as image, opened(store, name) as other:
        await other.resize(3 * SIZE)
        await other.write(3 * SIZE - 4, b"tail")
        with pytest.raises(Outgrown):
            await image.resize(2 * SIZE)
        assert image.size == 3 * SIZE
        assert await image.read(3 * SIZE - 4, 4) == b"tail"
        await image.resize(2 * SIZE, shrink=True)
        assert image.size == 2 * SIZE


async def test_who_writes_is_a_watcher(store: Store) -> None:
    name = store.create()
    async with opened(store, name, read_only=True) as reader:
        assert await reader.watchers() == []
        async with opened(store, name):
            (address,) = await reader.watchers()
            assert address.startswith("127.0.0.1:0/")
        assert await reader.watchers() == []


async def test_the_exclusive_lock_keeps_others_out(store: Store) -> None:
    name = store.create(features=LOCKABLE)
    async with opened(store, name) as other:
        async with opened(store, name) as owner:
            await owner.acquire_lock(EXCLUSIVE)
            assert owner.lock_held
            with pytest.raises(OSError, match=f"{store.pool}/{name}") as caught:
                await other.acquire_lock(EXCLUSIVE)
            assert caught.value.errno == errno.EROFS
            assert not other.lock_held
            for image in (owner, other):
                await image.check_lock()
                image.check()
        await other.acquire_lock(EXCLUSIVE)
        assert other.lock_held


async def test_an_image_without_the_feature_has_no_lock(store: Store) -> None:
    async with opened(store, store.create()) as image:
        await image.acquire_lock(EXCLUSIVE)
        assert not image.lock_held


# What only the fake can be told to do.


@pytest.fixture
def fake() -> Iterator[FakeImage]:
    with FakeImage(FakeContent(bytearray(b"a" * SIZE))) as fake:
        yield fake


def image_of(fake: FakeImage) -> Image:
    return Image(AioBridge(), fake, "pool/vm1", size=fake.size(), read_only=False)


@pytest.mark.parametrize(
    ("kind", "action", "call"),
    [
        ("read", "read 4096~512", lambda image: image.read(4096, 512)),
        ("write", "write 4096~3", lambda image: image.write(4096, b"abc")),
        ("write_zeroes", "write_zeroes 0~9", lambda image: image.write_zeroes(0, 9)),
        ("flush", "flush", lambda image: image.flush()),
        ("resize", "resize to 5", lambda image: image.resize(5, shrink=True)),
        ("metadata", "set key", lambda image: image.set_meta("key", "value")),
        ("metadata", "remove key", lambda image: image.remove_meta("key")),
        ("close", "close", lambda image: image.close()),
    ],
)
@pytest.mark.parametrize("code", [errno.ESHUTDOWN, errno.ETIMEDOUT, errno.ENOSPC])
async def test_an_error_of_librbd(
    fake: FakeImage, kind: str, action: str, call: Callable[[Image], Any], code: int
) -> None:
    image = image_of(fake)
    fake.errors[kind] = code
    with pytest.raises(OSError, match=f"pool/vm1: {action}: ") as caught:
        await call(image)
    assert caught.value.errno == code
    if kind == "close":
        return
    del fake.errors[kind]
    if code == errno.ENOSPC:
        await call(image)
        return
    # Fenced, or a write that may still land: what was acknowledged is in doubt from now on.
    for request in (image.read(0, 1), image.write(0, b"x"), image.flush()):
        with pytest.raises(OSError, match="pool/vm1: ") as caught:
            await request
        assert caught.value.errno == code


@pytest.mark.parametrize("missing", [1, 511, 512])
async def test_a_short_read_is_an_error(fake: FakeImage, missing: int) -> None:
    """Never passed on: the kernel would fill the rest with zeros, with success."""
    fake.missing = missing
    with pytest.raises(OSError, match="pool/vm1: read 0~512 ") as caught:
        await image_of(fake).read(0, 512)
    assert caught.value.errno == errno.EIO


async def test_an_error_hits_its_own_request_only(fake: FakeImage) -> None:
    image = image_of(fake)
    fake.errors["write"] = errno.EIO
    with pytest.raises(OSError, match="write"):
        await image.write(0, b"x")
    assert await image.read(0, 4) == b"aaaa"
    await image.flush()
    await image.close()
    assert fake.submitted == ["write 0~1", "read 0~4", "flush", "close"]


async def test_requests_do_not_wait_for_each_other(fake: FakeImage) -> None:
    image = image_of(fake)
    async with trio.open_nursery() as nursery:
        with fake.held():
            for number in range(3):
                nursery.start_soon(image.read, number * 512, 512)
            await trio.testing.wait_all_tasks_blocked()
            assert sorted(fake.submitted) == ["read 0~512", "read 1024~512", "read 512~512"]


async def test_close_begins_when_nothing_is_in_flight(
    fake: FakeImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, in_threads = image_of(fake), []

    async def record(*_: object, **__: object) -> None:
        in_threads.append(fake.submitted)

    async with trio.open_nursery() as nursery:
        with fake.held(), monkeypatch.context() as patch:
            nursery.start_soon(image.write, 0, b"x")
            await trio.testing.wait_all_tasks_blocked()
            # It would be called before the tasks are blocked, and a thread would not.
            patch.setattr(trio.to_thread, "run_sync", record)
            nursery.start_soon(image.close)
            await trio.testing.wait_all_tasks_blocked()
            assert in_threads == []
    assert fake.submitted == ["write 0~1", "close"]


async def test_a_cancelled_write_is_carried_out(fake: FakeImage) -> None:
    """librbd reads the buffer late: it must live, and the caller must not go on, until then."""
    image, scope, returned = image_of(fake), trio.CancelScope(), trio.Event()

    async def write() -> None:
        with scope:
            await image.write(0, bytes(range(256)))
        returned.set()

    async with trio.open_nursery() as nursery:
        with fake.held():
            nursery.start_soon(write)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            assert not returned.is_set()
    assert await image.read(0, 256) == bytes(range(256))


# The binding itself: the fake does what librbd's does, down to its oddities.

Outcome = tuple[Any, ...]


def outcome(submit: Callable[..., object]) -> Outcome:
    """What an aio request ends with: its return value and data, or the exception's type."""
    completed, results = threading.Event(), []

    def on_complete(completion: Any, *data: object) -> None:
        results.append((completion.get_return_value(), *data))
        completed.set()

    try:
        submit(on_complete)
    except Exception as exc:
        return type(exc), getattr(exc, "errno", None)
    assert completed.wait(DEADLINE_S)
    return results[0]


def value(call: Callable[[], object]) -> Outcome:
    """What a blocking call ends with."""
    try:
        return (call(),)
    except Exception as exc:
        return type(exc), getattr(exc, "errno", None)


RAW_REQUESTS: dict[str, Callable[[Binding], Outcome]] = {
    "read": lambda b: outcome(lambda cb: b.aio_read(0, 512, cb)),
    "read all": lambda b: outcome(lambda cb: b.aio_read(0, SIZE, cb)),
    "read across the end": lambda b: outcome(lambda cb: b.aio_read(SIZE - 512, 1024, cb)),
    "read at the end": lambda b: outcome(lambda cb: b.aio_read(SIZE, 512, cb)),
    "read past the end": lambda b: outcome(lambda cb: b.aio_read(SIZE + 512, 512, cb)),
    "read nothing": lambda b: outcome(lambda cb: b.aio_read(0, 0, cb)),
    "read nothing past the end": lambda b: outcome(lambda cb: b.aio_read(SIZE + 1, 0, cb)),
    "read before the beginning": lambda b: outcome(lambda cb: b.aio_read(-1, 512, cb)),
    "read less than nothing": lambda b: outcome(lambda cb: b.aio_read(0, -1, cb)),
    "read beyond 64 bits": lambda b: outcome(lambda cb: b.aio_read(2**64, 1, cb)),
    "write": lambda b: outcome(lambda cb: b.aio_write(b"w" * 512, 0, cb)),
    "write across the end": lambda b: outcome(lambda cb: b.aio_write(b"w" * 99, SIZE - 9, cb)),
    "write at the end": lambda b: outcome(lambda cb: b.aio_write(b"w", SIZE, cb)),
    "write past the end": lambda b: outcome(lambda cb: b.aio_write(b"w", SIZE + 1, cb)),
    "write nothing": lambda b: outcome(lambda cb: b.aio_write(b"", 0, cb)),
    "write nothing past the end": lambda b: outcome(lambda cb: b.aio_write(b"", SIZE + 1, cb)),
    "write before the beginning": lambda b: outcome(lambda cb: b.aio_write(b"w", -1, cb)),
    "write a view": lambda b: outcome(lambda cb: b.aio_write(memoryview(b"w"), 0, cb)),  # type: ignore[arg-type]
    "write a bytearray": lambda b: outcome(lambda cb: b.aio_write(bytearray(b"w"), 0, cb)),  # type: ignore[arg-type]
    "flush": lambda b: outcome(b.aio_flush),
    "size": lambda b: value(b.size),
    "features": lambda b: value(b.features),
    "grow": lambda b: value(lambda: b.resize(SIZE * 2)),
    "shrink": lambda b: value(lambda: b.resize(5)),
    "resize below zero": lambda b: value(lambda: b.resize(-1)),
    "resize beyond 64 bits": lambda b: value(lambda: b.resize(2**64)),
    "zeros": lambda b: outcome(lambda cb: b.aio_write_zeroes(SIZE - 99, 9, cb)),
    "zeros across the end": lambda b: outcome(lambda cb: b.aio_write_zeroes(SIZE - 9, 99, cb)),
    "zeros at the end": lambda b: outcome(lambda cb: b.aio_write_zeroes(SIZE, 1, cb)),
    "no zeros past the end": lambda b: outcome(lambda cb: b.aio_write_zeroes(SIZE + 1, 0, cb)),
    "zeros before the beginning": lambda b: outcome(lambda cb: b.aio_write_zeroes(-1, 1, cb)),
    "flags": lambda b: value(b.flags),
    "lock": lambda b: value(lambda: b.lock_acquire(EXCLUSIVE)),
    "lock twice": lambda b: (
        *value(lambda: b.lock_acquire(EXCLUSIVE)),
        *value(lambda: b.lock_acquire(EXCLUSIVE)),
    ),
    "watchers": lambda b: value(lambda: [sorted(each) for each in b.watchers_list()]),
    "close": lambda b: value(b.close),
}


def prepare(store: Store, *, features: int) -> tuple[str, int]:
    """An image with something at its end, and a snapshot of it: name and snapshot id."""
    name = store.create(features=features)
    binding = store.open(name)
    assert outcome(lambda cb: binding.aio_write(b"s" * 1024, SIZE - 1024, cb)) == (0,)
    binding.close()
    return name, store.create_snap(name)


def observe(
    binding: Binding, reader: Binding, request: Callable[[Binding], Outcome]
) -> list[Outcome]:
    """What *request* ends with, and what there is to see afterwards."""
    seen = [request(binding), value(binding.size), value(binding.close), value(reader.size)]
    seen += [outcome(lambda cb: reader.aio_read(0, 4 * SIZE, cb))]
    reader.close()
    return seen


def observe_state(store: Store, state: str) -> dict[str, list[Outcome]]:
    """What every request ends with in one state, each on an image that was just opened."""
    seen = {}
    prepared = prepare(store, features=LOCKABLE)
    for name, request in RAW_REQUESTS.items():
        if state == "writable":
            prepared = prepare(store, features=LOCKABLE)
        image, snap_id = prepared
        binding = store.open(
            image, read_only=state == "read only", snap_id=snap_id if state == "snapshot" else None
        )
        if state == "closed":
            binding.close()
        seen[name] = observe(binding, store.open(image), request)
    return seen


@pytest.mark.parametrize("state", ["writable", "read only", "snapshot", "closed"])
def test_the_fake_does_what_librbd_does(
    fake_store: FakeStore, ioctx: rados.Ioctx, state: str
) -> None:
    assert observe_state(fake_store, state) == observe_state(RbdStore(ioctx), state)


def test_without_the_feature_the_fake_has_no_lock_either(
    fake_store: FakeStore, ioctx: rados.Ioctx
) -> None:
    def lock(store: Store) -> list[Outcome]:
        binding = store.open(store.create(features=rbd.RBD_FEATURE_LAYERING))
        return [RAW_REQUESTS["lock"](binding), value(binding.close)]

    assert lock(fake_store) == lock(RbdStore(ioctx))


def test_two_who_want_the_lock(fake_store: FakeStore, ioctx: rados.Ioctx) -> None:
    def observe_both(store: Store) -> list[Outcome]:
        name = store.create(features=LOCKABLE)
        owner, other = store.open(name), store.open(name)
        seen = [value(lambda: owner.lock_acquire(EXCLUSIVE))]
        seen += [value(lambda: other.lock_acquire(EXCLUSIVE))]
        seen += [value(lambda: len(list(other.watchers_list()))), value(owner.close)]
        seen += [value(lambda: len(list(other.watchers_list())))]
        return [*seen, value(lambda: other.lock_acquire(EXCLUSIVE)), value(other.close)]

    assert observe_both(fake_store) == observe_both(RbdStore(ioctx))


@pytest.mark.parametrize("kind", ["fake", pytest.param("librbd", marks=pytest.mark.cluster)])
def test_what_a_callback_raises_goes_nowhere(kind: str, request: pytest.FixtureRequest) -> None:
    """Which is why a completion must not raise: nothing would wake the task that waits."""
    fake_store: FakeStore = request.getfixturevalue("fake_store")
    store = fake_store if kind == "fake" else RbdStore(request.getfixturevalue("ioctx"))
    binding = store.open(store.create())

    def fail(*_: object) -> None:
        raise ValueError("nobody sees this")

    binding.aio_read(0, 512, fail)
    assert outcome(binding.aio_flush) == (0,)
    assert value(binding.close) == (None,)
