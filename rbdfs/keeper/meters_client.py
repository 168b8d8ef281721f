"""Reading the meters of a mount, which its keeper gives to root and to who has mounted.

The server is not asked: they can be read while it hangs, or is started anew.

    with meters_at("/srv/rbd", "status") as reader:
        reader.facts                     # as `rbdfs status` tells of the keeper and its server
        reader.snapshot()                # -> model.meters.Snapshot; as often as wanted
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rbdfs.errors import UserError
from rbdfs.keeper.command_client import connected, entry_at, exchanged, parsed_answer
from rbdfs.model import meters_layout
from rbdfs.model.meters import Snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rbdfs.kernel.mount import Entry

_TIMEOUT_S = 10.0
COMMAND = "metrics"


@dataclass(frozen=True, slots=True)
class MetersReader:
    """The meters of a mount, which go on being written.

    Attributes:
        facts: what the keeper has told beside them.
        descriptor: the memory, to be read.
        path: what it was asked for.
    """

    facts: dict[str, Any]
    descriptor: int
    path: str

    def snapshot(self, earlier: Snapshot | None = None) -> Snapshot:
        """Return the meters as they are now, with what it can of one that was taken *earlier*.

        Raises UserError for what is none of this version.
        """
        try:
            return snapshot_in(self.descriptor, earlier)
        except (OSError, ValueError) as exc:
            raise UserError(f"{self.path!a}: its meters cannot be read: {exc}") from exc


@contextlib.contextmanager
def meters_at(path: str, command: str) -> Iterator[MetersReader]:
    """Yield the meters of the mount that *path* leads to; raise UserError where there are none.

    *command* is the one that the user has given.
    """
    with meters_of(path, entry_at(path, command), _TIMEOUT_S) as reader:
        yield reader


@contextlib.contextmanager
def meters_of(path: str, entry: Entry, timeout_s: float) -> Iterator[MetersReader]:
    """Yield those of a mount, which *path* is said to be, likewise; no file system is asked."""
    facts, descriptor = _asked(path, entry, timeout_s)
    try:
        yield MetersReader(facts, descriptor, path)
    finally:
        os.close(descriptor)


def snapshot_in(descriptor: int, earlier: Snapshot | None = None) -> Snapshot:
    """Return the meters in memory as they are now; raise OSError, or ValueError for what is none.

    It is not mapped: reading a page that was never written would make one of it.
    """
    header = os.pread(descriptor, meters_layout.HEADER_BYTES, 0)
    return Snapshot.of(os.pread(descriptor, meters_layout.used_bytes(header), 0), earlier)


def _asked(path: str, entry: Entry, timeout_s: float) -> tuple[dict[str, Any], int]:
    with connected(path, entry, timeout_s) as sock:
        message, descriptors = exchanged(path, sock, COMMAND, timeout_s, 1)
    with contextlib.ExitStack() as stack:
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
            stack.callback(os.close, descriptor)
        facts = parsed_answer(path, message)
        if str(facts.get("error", "")).startswith("unknown command"):
            raise UserError(f"{path!a}: its keeper is of an older rbdfs, which counts nothing")
        if "error" in facts:
            raise UserError(f"{path!a}: {facts['error']}")
        if len(descriptors) != 1 or not _is_memory(descriptors[0]):
            raise UserError(f"{path!a}: what its keeper gives is no memory")
        stack.pop_all()
    return facts, descriptors[0]


def _is_memory(descriptor: int) -> bool:
    """Tell whether it is memory that nobody can cut off; of any other file a read may hang."""
    try:
        return bool(fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK)
    except OSError as exc:
        if exc.errno == errno.EINVAL:
            return False
        raise
