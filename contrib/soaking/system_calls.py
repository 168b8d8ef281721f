"""What users can do: each method is one operation, and raises OSError as the system call does."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

from soaking import content
from soaking.storm import Storm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

COMMAND_S = 120.0
POLL_S = 0.02
# The greatest file is a few MiB: whatever is longer is wrong.
MOST_BYTES = 256 << 20
# <linux/falloc.h>
FALLOC_PUNCH, FALLOC_ZERO_RANGE = 0x03, 0x10


class SystemCalls:
    """The operations of one user, and the descriptors that it holds, by slot.

    Paths are ``POOL/NAME`` with POOL ``a`` or ``b``, whose true names *pools* tells.
    """

    def __init__(
        self, mount: Path, scratch: Path, conf: Path, pools: dict[str, str], user: int
    ) -> None:
        self._mount, self._scratch, self._conf = mount, scratch, conf
        self._pools, self._user = pools, user
        self._slots: dict[str, int] = {}

    def close_all(self) -> None:
        for slot in list(self._slots):
            with contextlib.suppress(OSError):
                self.close(slot)

    def spec(self, path: str) -> str:
        pool, slash, name = path.partition("/")
        return self._pools[pool] + slash + name

    def _path(self, path: str) -> str:
        return str(self._mount / self.spec(path))

    # Descriptors.

    def open(self, slot: str, path: str, flags: int) -> None:
        if slot in self._slots:
            raise OSError(errno.EMFILE, "this slot is in use")
        self._slots[slot] = os.open(self._path(path), flags | os.O_CLOEXEC, 0o644)

    def _fd(self, slot: str) -> int:
        if slot not in self._slots:
            # Its open failed, or was left out.
            raise OSError(errno.EBADFD, "no such slot")
        return self._slots[slot]

    def close(self, slot: str) -> None:
        fd = self._fd(slot)
        del self._slots[slot]
        os.close(fd)

    def dup_close(self, slot: str) -> None:
        os.close(os.dup(self._fd(slot)))

    def fork_close(self, slot: str) -> None:
        """A child that has inherited the descriptor, and ends."""
        self._fd(slot)
        in_child(lambda: b"")

    def write(self, slot: str, file: int, version: int, off: int, size: int) -> int:
        data = content.pattern(file, self._user, version, off, size)
        fd = self._fd(slot)
        if not fcntl_direct(fd):
            return os.pwrite(fd, data, off)
        with _aligned(data) as buffer:
            return os.pwrite(fd, buffer, off)

    def read(self, slot: str, off: int, size: int) -> bytes:
        fd = self._fd(slot)
        data = os.pread(fd, size, off)
        if 0 < len(data) < size:
            # The kernel gives the pages that it has, and the error of the next one to the next
            # read.
            os.pread(fd, size - len(data), off + len(data))
        return data

    def mmap_read(self, slot: str, off: int, size: int) -> bytes:
        return in_child(lambda: self._mapped(slot, off, size, None))

    def mmap_write(self, slot: str, file: int, version: int, off: int, size: int) -> int:
        data = content.pattern(file, self._user, version, off, size)
        in_child(lambda: self._mapped(slot, off, size, data))
        return size

    def _mapped(self, slot: str, off: int, size: int, data: bytes | None) -> bytes:
        protection = mmap.PROT_READ | (0 if data is None else mmap.PROT_WRITE)
        with mmap.mmap(self._fd(slot), size, mmap.MAP_SHARED, protection, offset=off) as mapped:
            if data is None:
                return mapped[:size]
            mapped[:size] = data
            mapped.flush()
            return b""

    def fsync(self, slot: str) -> None:
        os.fsync(self._fd(slot))

    def ftruncate(self, slot: str, size: int) -> None:
        os.ftruncate(self._fd(slot), size)

    def fstat(self, slot: str) -> int:
        return os.fstat(self._fd(slot)).st_size

    def fallocate(self, slot: str, mode: int, off: int, size: int) -> None:
        fallocate(self._fd(slot), mode, off, size)

    # Paths.

    def stat(self, path: str) -> int:
        return os.stat(self._path(path)).st_size

    def truncate(self, path: str, size: int) -> None:
        os.truncate(self._path(path), size)

    def utime(self, path: str) -> None:
        os.utime(self._path(path))

    def rename(self, path: str, to: str) -> None:
        os.rename(self._path(path), self._path(to))

    def unlink(self, path: str) -> None:
        os.unlink(self._path(path))

    def mkdir(self, path: str) -> None:
        os.mkdir(self._path(path))

    def rmdir(self, path: str) -> None:
        os.rmdir(self._path(path))

    def link(self, path: str, to: str) -> None:
        os.link(self._path(path), self._path(to))

    def listing(self, path: str) -> list[str]:
        return os.listdir(self._path(path))

    def read_all(self, path: str, how: str) -> bytes:
        """The whole file: by read(2), ``direct``, ``mmap`` or ``seek``, which skips the holes."""
        flags = os.O_RDONLY | (os.O_DIRECT if how == "direct" else 0)
        fd = os.open(self._path(path), flags | os.O_CLOEXEC)
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, fd)
            size = os.fstat(fd).st_size
            if size > MOST_BYTES:
                raise OSError(errno.EFBIG, f"{path} has {size} bytes")
            if how == "mmap" and size:
                return in_child(lambda: mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ)[:size])
            if how == "seek":
                return _without_holes(fd, size)
            return _to_the_end(fd)

    # Commands.

    def copy_in(self, path: str, file: int, version: int, size: int, command: list[str]) -> str:
        """A local file is copied to *path*; what the command complained of."""
        local = self._scratch / f"user{self._user}.in"
        # Of the mode that images have: chmod(2) to another one is EPERM, and cp -p tries to.
        local.touch(mode=0o600)
        local.write_bytes(content.pattern(file, self._user, version, 0, size))
        return _run([*command, str(local), self._path(path)])[1]

    def copy(self, path: str, to: str, command: list[str]) -> str:
        return _run([*command, self._path(path), self._path(to)])[1]

    def storm(self, path: str, **shape: Any) -> dict[str, Any]:
        """Writers that make a file grow, beside descriptors that are closed; see Storm."""
        return Storm(self._path(path), self._user, **shape).blow()

    def rbd(self, arguments: list[str]) -> str:
        """A command of rbd; words that begin with ``:`` are paths. What it complained of."""
        words = [self.spec(word[1:]) if word.startswith(":") else word for word in arguments]
        return _run(["rbd", "-c", str(self._conf), *words])[1]

    def export(self, path: str) -> bytes:
        """What the cluster holds."""
        return export(self._conf, self.spec(path))

    def wait_for(self, path: str, size: int | None, seconds: float) -> float | None:
        """How long it took until the file was there with *size*, or was not (None)."""
        begun = time.monotonic()
        while time.monotonic() < begun + seconds:
            found = None
            with contextlib.suppress(FileNotFoundError):
                found = os.stat(self._path(path)).st_size
            if found == size:
                return time.monotonic() - begun
            time.sleep(POLL_S)
        return None

    def pause(self, seconds: float) -> None:
        time.sleep(seconds)


def export(conf: Path, spec: str) -> bytes:
    command = ["rbd", "-c", str(conf), "export", "--no-progress", spec, "-"]
    output, complaint = _run(command)
    if complaint:
        raise OSError(errno.EREMOTEIO, complaint)
    return output


def in_child(action: Callable[[], bytes]) -> bytes:
    """What *action* returns in a child process, which may die of a page that is not there."""
    receiver, sender = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 255
        try:
            os.close(receiver)
            with os.fdopen(sender, "wb") as pipe:
                pipe.write(action())
            code = 0
        except OSError as exc:
            code = exc.errno or 255
        finally:
            os._exit(code)
    os.close(sender)
    with os.fdopen(receiver, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        killer = signal.Signals(os.WTERMSIG(status)).name
        raise OSError(errno.EIO, f"killed by {killer}")
    if os.WEXITSTATUS(status):
        raise OSError(os.WEXITSTATUS(status), "in a child")
    return data


def fallocate(fd: int, mode: int, off: int, size: int) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate(fd, mode, ctypes.c_int64(off), ctypes.c_int64(size)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def fcntl_direct(fd: int) -> bool:
    import fcntl

    return bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT)


@contextlib.contextmanager
def _aligned(data: bytes) -> Iterator[memoryview]:
    """The data at the beginning of a page, as O_DIRECT wants it."""
    with mmap.mmap(-1, max(len(data), 1)) as buffer:
        buffer[: len(data)] = data
        with memoryview(buffer) as whole, whole[: len(data)] as view:
            yield view


def _to_the_end(fd: int) -> bytes:
    parts = []
    off = 0
    while part := os.pread(fd, 128 << 10, off):
        parts.append(part)
        off += len(part)
        if off > MOST_BYTES:
            raise OSError(errno.EFBIG, "no end")
    return b"".join(parts)


def _without_holes(fd: int, size: int) -> bytes:
    found = bytearray(size)
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno == errno.ENXIO:
                break
            raise
        end = os.lseek(fd, start, os.SEEK_HOLE)
        found[start:end] = os.pread(fd, end - start, start)
    return bytes(found)


def _run(command: list[str]) -> tuple[bytes, str]:
    """What a command printed, and what it complained of where it failed."""
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=COMMAND_S)
    if not done.returncode:
        return done.stdout, ""
    complaint = os.fsdecode(done.stderr).strip().splitlines() or ["nothing"]
    return done.stdout, f"exit code {done.returncode}: {complaint[-1]}"
