"""Files on their way to and from the data path, behind a kernel that the test plays."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import trio

from rbdfs.errors import Failure, Interrupted
from rbdfs.fuse.native_path import NativePath
from rbdfs.kernel import connection
from rbdfs.model.entry import Entry, Key
from tests.datapath.conftest import SIZE
from tests.support import fake_kernel as fuse
from tests.support.conditions import eventually_async
from tests.support.fake_kernel import OUT, broken_device, read_body, write_body

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from rbdfs.datapath.native import Image


NOTHING: Any = SimpleNamespace()  # an opener that opens nothing


class Kernel:
    """The device's other end, and pyfuse3's."""

    def __init__(self, device: socket.socket, pyfuse3: socket.socket, own: int) -> None:
        self.device, self.pyfuse3, self.own = device, pyfuse3, own

    async def read(self, fh: int, offset: int, size: int) -> bytes:
        body = read_body(fh, offset, size)
        self.device.send(fuse.IN.pack(40 + len(body), fuse.READ, 2, 1, 0, 0, 0, 0, 0) + body)
        await trio.lowlevel.wait_readable(self.device)
        message = self.device.recv(2 << 20)
        assert OUT.unpack_from(message)[1:] == (0, 2)
        return message[OUT.size :]

    async def release(self, fh: int) -> None:
        """Close a file: the data path has taken it, and pyfuse3 does nothing yet."""
        body = fh.to_bytes(8, "little") + bytes(16)
        self.device.send(fuse.IN.pack(40 + len(body), fuse.RELEASE, 4, 1, 0, 0, 0, 0, 0) + body)
        await trio.lowlevel.wait_readable(self.pyfuse3)
        assert self.pyfuse3.recv(2 << 20)


@contextlib.asynccontextmanager
async def connected(
    path: NativePath, handles: tuple[Any, ...] = (), **methods: Any
) -> AsyncIterator[Kernel]:
    pair = connection.socket_pair()
    operations: Any = SimpleNamespace(mounted=SimpleNamespace(handles=handles), **methods)
    with pair.ours, pair.theirs:
        async with path.connected(pair.ours.fileno(), operations, b"") as device:
            descriptor = int(device.rpartition("/")[2])
            with socket.socket(fileno=descriptor) as pyfuse3:
                yield Kernel(pair.theirs, pyfuse3, pair.ours.fileno())


async def drained(path: NativePath) -> bool:
    return path.stats()["unreplied"] == 0


def handle_on(image: Image, fh: int) -> Any:
    """An open file of half of the image, as far as the data path looks at one."""
    shared = SimpleNamespace(
        error=None,
        image=SimpleNamespace(binding=image),
        gate=SimpleNamespace(is_frozen=False),
        exact=True,
    )
    return SimpleNamespace(
        fh=fh,
        entry=Entry(Key(1, "", "id"), "pool", "", "image"),
        shared=shared,
        writable=True,
        dirty=False,
        direct_io=None,
        length=SIZE // 2,
    )


async def test_a_file_that_is_being_closed_keeps_no_other_from_its_length(image: Image) -> None:
    """The kernel's RELEASE is taken at once, and Python hears of it in its own time."""
    path = NativePath(NOTHING, ignore_sync=False)
    closed, other = handle_on(image, 1), handle_on(image, 2)
    async with connected(path) as kernel:
        for handle in (closed, other):
            path.serve(handle)
        await kernel.release(closed.fh)
        for handle in (closed, other):
            handle.length = SIZE
            path.serve(handle)
        assert len(await kernel.read(other.fh, SIZE // 2, 4096)) == 4096
        # Nobody knows any more whether what it wrote was flushed.
        assert closed.dirty
        for handle in (closed, other):
            path.forget(handle)


async def test_a_file_that_thaws_is_as_dirty_and_direct_as_it_was(
    image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what the data path knows to be dirty, Python need not flush as well."""
    path = NativePath(NOTHING, ignore_sync=False)
    handle = handle_on(image, 1)
    handle.direct_io = True
    registered: list[tuple[bool, bool]] = []
    async with connected(path):
        path.serve(handle)
        handle.shared.gate.is_frozen = True
        path.serve(handle)
        assert handle.dirty
        handle.shared.gate.is_frozen = False
        mux = SimpleNamespace(
            register=lambda *_, dirty, direct, **__: registered.append((dirty, direct))
        )
        with monkeypatch.context() as patch:
            patch.setattr(path, "_mux", mux)
            path.serve(handle)
    assert registered == [(True, True)]
    assert not handle.dirty


async def test_what_the_data_path_cannot_take_python_carries_out(image: Image) -> None:
    async def read(fh: int, off: int, size: int) -> bytes:
        return f"{fh} {off} {size}".encode()

    path = NativePath(NOTHING, ignore_sync=False)
    handle = handle_on(image, 1)
    async with connected(path, read=read) as kernel:
        path.serve(handle)
        handle.length = 1 << 63
        path.serve(handle)
        assert await kernel.read(handle.fh, 4096, 512) == b"1 4096 512"


async def test_who_carries_out_what_nobody_waits_for_is_cancelled() -> None:
    """At once, or as soon as it begins, and EINTR goes out when the keeper knows."""
    abandoned: list[int] = []

    async def lseek(*_: int) -> int:
        await trio.sleep_forever()
        raise AssertionError

    async def abandon(unique: int) -> None:
        abandoned.append(unique)

    path = NativePath(NOTHING, ignore_sync=False)
    async with connected(path, lseek=lseek, abandon=abandon) as kernel:

        async def interrupt(unique: int, opcode: int, body: bytes) -> None:
            kernel.device.send(
                fuse.IN.pack(40 + len(body), opcode, unique, 1, 0, 0, 7, 0, 0) + body
            )
            sought = struct.pack("=Q", unique)
            kernel.device.send(
                fuse.IN.pack(48, fuse.INTERRUPT, unique | 1, 0, 0, 0, 0, 0, 0) + sought
            )
            await trio.lowlevel.wait_readable(kernel.device)
            assert kernel.device.recv(4096) == OUT.pack(16, -errno.EINTR, unique)
            assert abandoned.pop() == unique

        await interrupt(6, fuse.LSEEK, struct.pack("=QQII", 1, 0, os.SEEK_DATA, 0))
        await interrupt(8, fuse.LOOKUP, b"name\0")
        number = path.take_request(fuse.LOOKUP, 1, 7)
        assert number == 8
        with pytest.raises(Interrupted), path.interruptible(number):
            await trio.sleep_forever()
        kernel.pyfuse3.send(OUT.pack(16, -errno.EINTR, 8))
        await eventually_async(lambda: drained(path), what="no request is left")


async def test_files_of_another_server_are_served_once_somebody_says_so(image: Image) -> None:
    """The image may be open, and what was found in it not be checked yet."""
    path = NativePath(NOTHING, ignore_sync=False)
    unchecked, checked, closed = (handle_on(image, fh) for fh in (1, 2, 3))
    for handle in (checked, closed):
        path.serve(handle)
    path.forget(closed)

    async def read(fh: int, _offset: int, _size: int) -> bytes:
        return b"by Python: %d" % fh

    async with connected(path, (unchecked, checked), read=read) as kernel:
        assert len(await kernel.read(checked.fh, 0, 4096)) == 4096
        for handle in (unchecked, closed):
            assert await kernel.read(handle.fh, 0, 4096) == b"by Python: %d" % handle.fh
        path.serve(unchecked)
        assert len(await kernel.read(unchecked.fh, 0, 4096)) == 4096


async def test_a_device_that_cannot_be_read_is_a_failure_of_the_server() -> None:
    """And no end of the mount: the keeper starts another server upon it."""
    with pytest.RaisesGroup(pytest.RaisesExc(Failure, match="cannot be read: Is a directory")):
        async with connected(NativePath(NOTHING, ignore_sync=False)) as kernel:
            with broken_device(os.fstat(kernel.own).st_ino, kernel.own):
                # The reader waits in the socket; now it looks again.
                kernel.device.send(b"wake")
                await trio.sleep_forever()


async def test_a_durable_write_is_an_operation_of_its_own(image: Image) -> None:
    written: list[tuple[int, int, bytes]] = []

    async def write_durably(fh: int, off: int, buf: bytes) -> int:
        written.append((fh, off, buf))
        return len(buf)

    path = NativePath(NOTHING, ignore_sync=False)
    data = os.urandom(65536)
    async with connected(path, write_durably=write_durably) as kernel:
        body = write_body(9, 4096, data, os.O_DSYNC)
        kernel.device.send(fuse.IN.pack(40 + len(body), fuse.WRITE, 8, 1, 0, 0, 0, 0, 0) + body)
        await trio.lowlevel.wait_readable(kernel.device)
        assert kernel.device.recv(4096) == OUT.pack(24, 0, 8) + struct.pack("=I4x", len(data))
    assert written == [(9, 4096, data)]
