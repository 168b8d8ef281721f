"""The kernel's and pyfuse3's places on a Mux, taken by a test: FUSE messages over socket pairs."""

from __future__ import annotations

import itertools
import os
import struct
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from rbdfs.datapath import native
from rbdfs.kernel import connection

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

LOOKUP, GETATTR, OPEN, READ, WRITE, STATFS, RELEASE, FSYNC = 1, 3, 14, 15, 16, 17, 18, 20
GETXATTR, FLUSH, INIT, CREATE, INTERRUPT, FORGET = 22, 25, 26, 35, 36, 2
FALLOCATE, LSEEK, COPY_FILE_RANGE = 43, 46, 47

TIMEOUT_S = 20.0
QUIET_S = 0.2
IN = struct.Struct("=IIQQIIIHH")
OUT = struct.Struct("=IiQ")


class Request(NamedTuple):
    """A message of the kernel."""

    opcode: int
    unique: int
    body: bytes

    @classmethod
    def parse(cls, message: bytes) -> Request:
        length, opcode, unique, *_ = IN.unpack_from(message)
        assert length == len(message)
        return cls(opcode, unique, message[IN.size :])


class Reply(NamedTuple):
    """A message to the kernel; `error` is 0 or a positive errno."""

    unique: int
    error: int
    payload: bytes


class FakeKernel:
    """Sends requests and reads replies; reads as pyfuse3 and as Python what the Mux passes on."""

    def __init__(
        self, device: socket.socket, pyfuse3: socket.socket, extra: socket.socket, mux: native.Mux
    ) -> None:
        self.device, self.pyfuse3, self.extra, self.mux = device, pyfuse3, extra, mux
        self._uniques = itertools.count(2, 2)
        # Of the Mux's end of the device, by which its descriptor is found.
        self.mux_device_inode = 0

    def send(self, opcode: int, body: bytes = b"", unique: int | None = None, pid: int = 0) -> int:
        unique = next(self._uniques) if unique is None else unique
        header = IN.pack(IN.size + len(body), opcode, unique, 1, 0, 0, pid, 0, 0)
        self.device.send(header + body)
        return unique

    def receive(self) -> Reply:
        message = self.device.recv(2 << 20)
        length, error, unique = OUT.unpack_from(message)
        assert length == len(message)
        return Reply(unique, -error, message[OUT.size :])

    def ask(self, opcode: int, body: bytes = b"") -> Reply:
        unique = self.send(opcode, body)
        reply = self.receive()
        assert reply.unique == unique
        return reply

    def passed_on(self) -> Request:
        return Request.parse(self.pyfuse3.recv(2 << 20))

    def passed_to_python(self) -> Request:
        return Request.parse(self.extra.recv(2 << 20))

    def answer(self, unique: int, payload: bytes = b"", error: int = 0) -> None:
        """As pyfuse3."""
        self.pyfuse3.send(OUT.pack(OUT.size + len(payload), -error, unique) + payload)

    def is_quiet(self, end: socket.socket) -> bool:
        """Nothing comes for a short while."""
        end.settimeout(QUIET_S)
        try:
            end.recv(2 << 20)
        except TimeoutError:
            return True
        finally:
            end.settimeout(TIMEOUT_S)
        return False

    @contextmanager
    def broken_device(self) -> Iterator[None]:
        """Have every read of the device fail with EISDIR, once the Mux looks again."""
        with broken_device(self.mux_device_inode):
            yield

    # Bodies of the requests that the data path serves.

    def read(self, fh: int, offset: int, size: int) -> Reply:
        return self.ask(READ, read_body(fh, offset, size))

    def write(self, fh: int, offset: int, data: bytes, flags: int = 0) -> Reply:
        return self.ask(WRITE, write_body(fh, offset, data, flags))

    def fsync(self, fh: int) -> Reply:
        return self.ask(FSYNC, struct.pack("=QII", fh, 0, 0))

    def flush(self, fh: int) -> Reply:
        return self.ask(FLUSH, struct.pack("=QIIQ", fh, 0, 0, 0))

    def send_release(self, fh: int) -> int:
        return self.send(RELEASE, struct.pack("=QIIQ", fh, 0, 0, 0))


def read_body(fh: int, offset: int, size: int) -> bytes:
    return struct.pack("=QQIIQII", fh, offset, size, 0, 0, 0, 0)


def write_body(fh: int, offset: int, data: bytes, flags: int = 0) -> bytes:
    return struct.pack("=QQIIQII", fh, offset, len(data), 0, 0, flags, 0) + data


@contextmanager
def broken_device(inode: int, *others: int) -> Iterator[None]:
    """Have every read of a Mux's device fail with EISDIR, once it looks again.

    Another file is put under the number of the Mux's descriptor, which is found by the *inode* of
    the socket in its place; *others* are the test's own descriptors of it.
    """
    (descriptor,) = (
        fd for fd in map(int, os.listdir("/proc/self/fd")) if fd not in others and _is(fd, inode)
    )
    original, directory = os.dup(descriptor), os.open("/", os.O_RDONLY)
    try:
        os.dup2(directory, descriptor)
        yield
    finally:
        with suppress(OSError):
            # It was closed meanwhile, with the Mux.
            if _is(descriptor, os.fstat(directory).st_ino):
                os.dup2(original, descriptor)
        os.close(original)
        os.close(directory)


def _is(fd: int, inode: int) -> bool:
    try:
        return os.fstat(fd).st_ino == inode
    except OSError:
        return False


@contextmanager
def fake_kernel(
    *, start: bool = True, mux_class: Callable[..., native.Mux] = native.Mux, **settings: Any
) -> Iterator[FakeKernel]:
    """A running Mux between sockets.  It is stopped at the end: nothing may be left in librbd."""
    with ExitStack() as stack:
        device, pyfuse3 = connection.socket_pair(), connection.socket_pair()
        extra_pair = connection.socket_pair()
        extra, extra_mux = extra_pair.theirs, extra_pair.ours
        ends = [device.ours, device.theirs, pyfuse3.ours, pyfuse3.theirs, extra, extra_mux]
        for end in ends:
            stack.enter_context(end)
            end.settimeout(TIMEOUT_S)
        mux = mux_class(device.ours, pyfuse3.ours, extra_mux, **settings)
        if start:
            mux.start()
        stack.callback(mux.stop, TIMEOUT_S)
        # The Mux has its own: so the end of the device is seen when the kernel's place closes it.
        inode = os.fstat(device.ours.fileno()).st_ino
        device.ours.close()
        kernel = FakeKernel(device.theirs, pyfuse3.theirs, extra, mux)
        kernel.mux_device_inode = inode
        yield kernel
