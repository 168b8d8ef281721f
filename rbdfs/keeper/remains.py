"""Remains: who the Ceph clients of a mount were, for a mount that comes after all of it has died.

Where keeper and server are killed both, nobody is left to tell the next mount whom to fence, and
whatever was open for writing would be in use for half a minute: as long as Ceph waits for a client
of which it hears nothing. So the keeper writes the addresses into its runtime directory. The file
is locked while the keeper lives: one that can be locked is of a mount that is dead.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
from typing import TYPE_CHECKING

from rbdfs.config.runtime_directory import runtime_directory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

log = logging.getLogger(__name__)

_SUFFIX = ".clients"
_MAX_BYTES = 1 << 16


class Remains:
    """The file of one mount, from keep() to close(). Without a runtime directory there is none."""

    def __init__(self, mountpoint: str) -> None:
        self._mountpoint = mountpoint
        self._path: Path | None = None
        self._descriptor = -1

    def keep(self, device: str, addresses: list[str]) -> None:
        """Make the file, for the mount with this MAJOR:MINOR."""
        directory = runtime_directory()
        if directory is None:
            return
        self._path = directory / f"{device.replace(':', '-')}{_SUFFIX}"
        try:
            # Not one that is there: it may be of a mount that is dead, and wait to be read.
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            self._descriptor = os.open(self._path, flags, 0o600)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            log.warning("a mount after this one cannot fence it: %s: %s", self._path, exc.strerror)
        self.update(addresses)

    def update(self, addresses: list[str]) -> None:
        """Write who the clients are now."""
        if self._descriptor < 0:
            return
        record = {"mountpoint": self._mountpoint, "addresses": addresses}
        try:
            data = json.dumps(record).encode()
            # The longer of the two first: a reader never finds half of it and the end of the old.
            os.pwrite(self._descriptor, data.ljust(os.fstat(self._descriptor).st_size), 0)
            os.ftruncate(self._descriptor, len(data))
        except OSError as exc:
            log.warning("a mount after this one cannot fence it: %s: %s", self._path, exc.strerror)

    def close(self) -> None:
        """Remove the file: the mount has ended as it should."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                # Another mount may have the number by now, and its keeper the name.
                if self._path is not None and os.path.samestat(
                    self._path.lstat(), os.fstat(self._descriptor)
                ):
                    self._path.unlink()
            os.close(self._descriptor)
            self._descriptor = -1


@contextlib.contextmanager
def remains_of(mountpoint: str) -> Iterator[list[str]]:
    """Yield the addresses that mounts on *mountpoint* have left which are dead.

    Their files are removed at the end of the context, unless it is left by an exception.
    """
    with contextlib.ExitStack() as stack:
        addresses: list[str] = []
        files = []
        directory = runtime_directory()
        for path in [] if directory is None else sorted(directory.glob(f"*{_SUFFIX}")):
            left = _read(path, mountpoint, stack)
            if left is not None:
                files.append(path)
                addresses += left
        yield addresses
        for path in files:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()


def _read(path: Path, mountpoint: str, stack: contextlib.ExitStack) -> list[str] | None:
    """Return what a dead mount on *mountpoint* has left in *path*; None where it is none."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    stack.callback(os.close, descriptor)
    # Not locked before it is known to be looked for: whoever looks for it would take it for one
    # of a mount that lives.
    if parsed_remains(os.pread(descriptor, _MAX_BYTES, 0))[0] != mountpoint:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    of, left = parsed_remains(os.pread(descriptor, _MAX_BYTES, 0))
    return left if of == mountpoint else None


def parsed_remains(data: bytes) -> tuple[str | None, list[str]]:
    """Return mount point and addresses; None and nothing for what a crash of the host has damaged.

    It must keep no mount from starting.
    """
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):
        record = None
    if isinstance(record, dict):
        mountpoint, addresses = record.get("mountpoint"), record.get("addresses", [])
        texts = (mountpoint, *addresses) if isinstance(addresses, list) else (None,)
        if all(isinstance(text, str) for text in texts):
            return mountpoint, addresses
    return None, []
