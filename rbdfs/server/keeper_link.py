"""The server's side of the keeper, and what stands in for it where there is none."""

from __future__ import annotations

import json
import logging
import os
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import trio

from rbdfs.errors import EXIT_FAILURE, UserError
from rbdfs.keeper.daemonise import leave_standard_descriptors
from rbdfs.kernel import mountpoint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from rbdfs.config.mount_options import MountOptions
    from rbdfs.files.handle import Handle
    from rbdfs.model.entry import Entry

log = logging.getLogger(__name__)

_MESSAGE_BYTES = 1 << 18
# The keeper keeps them among the handles, by numbers below those of directories.
_MOVES = -(1 << 62)


@dataclass(frozen=True, slots=True)
class Predecessor:
    """What a server that is gone has left behind.

    Attributes:
        fuse: the kernel's descriptor.
        init: how the kernel introduced itself to the first server.
        addresses: its Ceph clients.
        fenced: those that servers of this mount have fenced: no other client did.
        handles: the files and directories that were open, and the moves that were begun.
        crashed: whether requests of it may be on their way; if not, it has closed everything.
    """

    fuse: int
    init: bytes
    addresses: list[str] = field(default_factory=list)
    fenced: list[str] = field(default_factory=list)
    handles: list[dict[str, Any]] = field(default_factory=list)
    crashed: bool = True

    @property
    def files(self) -> list[dict[str, Any]]:
        """Open files, as Handle.record() wrote them."""
        return [record for record in self.handles if "entry" in record]

    @property
    def directories(self) -> list[dict[str, Any]]:
        """Open directories, as opened_directory() was told of them."""
        return [record for record in self.handles if "directory" in record]

    @property
    def moves(self) -> list[dict[str, Any]]:
        """Moves that were begun, as moving() was told of them: ``number`` and ``move``."""
        return [record for record in self.handles if "move" in record]


class Keeping(Protocol):
    """Who holds the kernel connection, and remembers what a new server would need."""

    def mount(self) -> int:
        """Mount and return the kernel's descriptor; raise UserError. Blocks."""

    def detach(self) -> None:
        """End the mount, where that is not the keeper's business."""

    def connected_as(self, addresses: list[str]) -> None:
        """Remember the addresses of this server's Ceph clients, to be fenced if it dies."""

    def fencing(self, addresses: list[str]) -> None:
        """Remember that it is this mount that fences *addresses*."""

    def opened(self, handle: Handle) -> None:
        """Remember an open file, or how long it has grown."""

    def released(self, fh: int) -> None:
        """Forget a file that was closed."""

    def opened_directory(self, fh: int, inode: int, entry: Entry) -> None:
        """Remember an open directory; its numbers are other ones than those of files."""

    def released_directory(self, fh: int) -> None:
        """Forget a directory that was closed."""

    def moving(self, number: int, move: dict[str, Any]) -> None:
        """Remember a move of an image to another pool, as JSON, which a successor has to end."""

    def moved(self, number: int) -> None:
        """Forget a move that has come to its end."""

    def ready(self, init_request: bytes) -> None:
        """Remember how the kernel introduced itself; the mount answers."""

    def commands(self) -> AsyncIterator[str]:
        """Yield what the keeper asks for."""

    def tell(self, event: str, **facts: Any) -> None:
        """Tell the keeper of an event, as its _on_EVENT() methods take them."""


class Unkept:
    """No keeper: the mount dies with this process."""

    def __init__(self, options: MountOptions, ready: Callable[[], None]) -> None:
        self._options = options
        self._ready = ready

    def mount(self) -> int:
        return mountpoint.mount(self._options)

    def detach(self) -> None:
        mountpoint.detach(self._options.mountpoint)

    def connected_as(self, addresses: list[str]) -> None: ...

    def fencing(self, addresses: list[str]) -> None: ...

    def opened(self, handle: Handle) -> None: ...

    def released(self, fh: int) -> None: ...

    def opened_directory(self, fh: int, inode: int, entry: Entry) -> None: ...

    def released_directory(self, fh: int) -> None: ...

    def moving(self, number: int, move: dict[str, Any]) -> None: ...

    def moved(self, number: int) -> None: ...

    def ready(self, init_request: bytes) -> None:
        self._ready()

    async def commands(self) -> AsyncIterator[str]:
        await trio.sleep_forever()
        yield ""

    def tell(self, event: str, **facts: Any) -> None: ...


class KeeperLink:
    """The way to the keeper. What was told is safe once the call returns: it is in its socket.

    Attributes:
        background: whether the caller's terminal is to be left when the mount is usable.
    """

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self.background = False

    def close(self) -> None:
        self._control.close()

    def tell(self, event: str, **facts: Any) -> None:
        try:
            self._control.send(json.dumps({"event": event, **facts}).encode())
        except BrokenPipeError:
            _leave()

    def mount(self) -> int:
        self.tell("mount")
        answer, descriptors, _, _ = socket.recv_fds(self._control, _MESSAGE_BYTES, 1)
        if not descriptors:
            raise UserError(json.loads(answer)["error"])
        return descriptors[0]

    def detach(self) -> None:
        """Nothing to do: the keeper ends the mount, or has another server go on with it."""

    def connected_as(self, addresses: list[str]) -> None:
        self.tell("left", addresses=addresses)

    def fencing(self, addresses: list[str]) -> None:
        self.tell("left", fenced=addresses)

    def opened(self, handle: Handle) -> None:
        self.tell("left", opened=handle.record())

    def released(self, fh: int) -> None:
        self.tell("left", released=fh)

    def opened_directory(self, fh: int, inode: int, entry: Entry) -> None:
        self.tell("left", opened={"fh": -fh, "inode": inode, "directory": entry.record()})

    def released_directory(self, fh: int) -> None:
        self.tell("left", released=-fh)

    def moving(self, number: int, move: dict[str, Any]) -> None:
        self.tell("left", opened={"fh": _MOVES - number, "number": number, "move": move})

    def moved(self, number: int) -> None:
        self.tell("left", released=_MOVES - number)

    def ready(self, init_request: bytes) -> None:
        if self.background:
            leave_standard_descriptors()
        self.tell("ready", init=init_request.hex())

    async def commands(self) -> AsyncIterator[str]:
        while True:
            await trio.lowlevel.wait_readable(self._control)
            message = self._control.recv(_MESSAGE_BYTES, socket.MSG_DONTWAIT)
            if not message:
                _leave()
            yield json.loads(message)["do"]


def _leave() -> None:
    # Without the keeper's descriptor, the mount ends with this process; whoever mounts anew must
    # not find its images in use.
    log.critical("the keeper is gone: leaving at once, the mount is dead")
    os._exit(EXIT_FAILURE)
