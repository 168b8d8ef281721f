"""The server's side of the keeper, and what stands in for it where there is none."""

from __future__ import annotations

import collections
import contextlib
import logging
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import trio

from rbdfs.errors import EXIT_FAILURE, UserError
from rbdfs.files.keeping import Keeping, Unremembered
from rbdfs.keeper import version_1
from rbdfs.keeper.command_socket import forget_keeper
from rbdfs.keeper.daemonise import Starter, leave_standard_descriptors
from rbdfs.keeper.estate import Kind
from rbdfs.keeper.messages import MESSAGE_BYTES, NO_MEMORY, decoded, encoded
from rbdfs.kernel import mountpoint
from rbdfs.kernel.mount import Mount

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from rbdfs.config.mount_options import MountOptions
    from rbdfs.files.handle import Handle
    from rbdfs.files.keeping import OpenFile
    from rbdfs.model.entry import Entry

log = logging.getLogger(__name__)

# How long the keeper is waited for at the end, in seconds.
_CLOSE_S = 5.0
# How long to wait, in seconds, before a packet is tried again that there was no memory for.
_MEMORY_S = 0.01


class Link(Keeping, Protocol):
    """Who holds the kernel connection, starts servers, and remembers what a new one would need."""

    def mount(self) -> tuple[int, Mount | None]:
        """Mount; return the kernel's descriptor and which mount it is. Raises UserError. Blocks."""

    def detach(self, mount: Mount, fuse: int) -> None:
        """Take *mount*, whose connection is *fuse*, away, if that is not the keeper's business."""

    def gave_up(self, message: str) -> None:
        """Say why this process ends before it can serve: the cluster does not answer."""

    def ready(self, init_request: bytes) -> None:
        """Remember how the kernel introduced itself; the mount answers."""

    def commands(self) -> AsyncIterator[str]:
        """Yield what the keeper asks for, until it is gone."""

    def tell(self, event: str, **facts: Any) -> None:
        """Tell the keeper of an event."""


class Unkept(Unremembered):
    """No keeper: the mount dies with this process."""

    def __init__(self, options: MountOptions, starter: Starter) -> None:
        self._options = options
        self._starter = starter

    def mount(self) -> tuple[int, Mount | None]:
        fuse, mount = mountpoint.mount(self._options)
        forget_keeper(mount.device)
        return fuse, mount

    def detach(self, mount: Mount, fuse: int) -> None:
        try:
            mount.detach(fuse)
        except OSError as exc:
            log.error("%a stays mounted, and dead: %s", mount.path, exc.strerror)
            raise UserError(f"{mount.path!a} stays mounted, and dead: {exc.strerror}") from exc

    def ready(self, init_request: bytes) -> None:
        self._starter.ready()

    def gave_up(self, message: str) -> None:
        self._starter.failed(UserError(message))

    async def commands(self) -> AsyncIterator[str]:
        await trio.sleep_forever()
        yield ""

    def tell(self, event: str, **facts: Any) -> None: ...


class KeeperLink:
    """The way to the keeper. What was told is safe once the call returns: it is in its socket.

    *version* is that of the keeper, which may be older than this server: see keeper.messages.
    *serving* is called when the mount is usable.

    Attributes:
        background: whether the caller's terminal is to be left when the mount is usable.
        told: how many messages were told.
    """

    def __init__(
        self, control: socket.socket, version: int, serving: Callable[[], None] = lambda: None
    ) -> None:
        self._control = control
        self._version = version
        # What is on record of open files, by file handle.
        self._files: dict[int, OpenFile] = {}
        self._serving = serving
        self._waiting: collections.deque[bytes] = collections.deque()
        self._delivering = trio.Lock()
        self._replaced = False
        self.background = False
        self.told = 0

    def close(self) -> None:
        """Close it, once the keeper has what it was told, which may take it a while."""
        self._control.settimeout(_CLOSE_S)
        with contextlib.suppress(OSError):
            while self._waiting:
                self._control.send(self._waiting.popleft())
        self._control.close()

    def tell(self, event: str, **facts: Any) -> None:
        """Tell the keeper of an event; never blocks, see Keeping.delivered()."""
        self._replaced |= event == "replace_me"
        packet = encoded({"event": event, **facts}, self._version)
        if len(packet) > MESSAGE_BYTES:
            log.error("not told to the keeper: %s of %d bytes", event, len(packet))
            return
        self.told += 1
        self._waiting.append(packet)
        self._send()

    def _send(self) -> bool:
        """Send what waits, as far as there is room for it; False: the kernel had no memory."""
        try:
            while self._waiting:
                self._control.send(self._waiting[0], socket.MSG_DONTWAIT)
                self._waiting.popleft()
        except BlockingIOError:
            return True
        except ConnectionError:
            # Whoever reads the commands sees it, and ends this server.
            self._waiting.clear()
        except OSError as exc:
            if exc.errno not in NO_MEMORY:
                raise
            return False
        return True

    async def delivered(self) -> None:
        told = self.told
        while self.told - len(self._waiting) < told:
            # One task waits for room at a time, and the others for that one.
            async with self._delivering:
                if self._waiting:
                    await trio.lowlevel.wait_writable(self._control)
                    if not self._send():
                        await trio.sleep(_MEMORY_S)

    def gave_up(self, message: str) -> None:
        self.failed(message, EXIT_FAILURE, passing=True)

    def failed(self, message: str, exit_code: int, *, passing: bool) -> None:
        """Tell why this server cannot serve.

        The keeper waits for what is *passing* as long as it takes; of everything else it has had
        enough after a few servers.
        """
        if self._version > 1:
            self.tell("failed", message=message, exit_code=exit_code, passing=passing)
        elif passing:
            # What a keeper of version 1 is told of, it takes for passing; it counts silent deaths.
            self.tell("failed", message=message, exit_code=exit_code)

    def remember(self, kind: Kind, number: int, record: dict[str, Any]) -> None:
        """Have the keeper remember a record: it is in the next server's Estate.of_kind(kind)."""
        if self._version > 1:
            self.tell("remember", kind=kind, number=number, record=record)
        else:
            self.tell("left", **version_1.remembering(kind, number, record))

    def forget(self, kind: Kind, number: int) -> None:
        """Have the keeper forget a record.

        One that has made way for another tells no more of what it closes: that is still open for
        the kernel, and the keeper would not forget it.
        """
        if self._replaced:
            return
        if self._version > 1:
            self.tell("forget", kind=kind, number=number)
        else:
            self.tell("left", **version_1.forgetting(kind, number))

    def mount(self) -> tuple[int, Mount | None]:
        self.tell("mount")
        packet, descriptors, _, _ = socket.recv_fds(self._control, MESSAGE_BYTES, 1)
        answer = decoded(packet)
        if not descriptors:
            raise UserError(answer["error"])
        # One of version 1 does not know which mount it is.
        mount = answer.get("mount")
        return descriptors[0], None if mount is None else Mount.from_record(mount)

    def detach(self, mount: Mount, fuse: int) -> None:
        """Nothing to do: the keeper ends the mount, or has another server go on with it."""

    def rooted(self, root: Entry) -> None:
        self.remember(Kind.ROOT, 0, root.record())

    def connected_as(self, addresses: list[str]) -> None:
        self.tell("left", addresses=addresses)

    def fencing(self, addresses: list[str]) -> None:
        self.tell("left", fenced=addresses)

    def locked(self, number: int, lock: dict[str, Any]) -> None:
        self.remember(Kind.LOCK, number, lock)

    def unlocked(self, number: int) -> None:
        self.forget(Kind.LOCK, number)

    def giving_up(self, addresses: list[str]) -> None:
        self.remember(Kind.GIVEN_UP, 0, {"addresses": addresses})

    def inherited(self, files: list[OpenFile]) -> None:
        self._files |= {file.fh: file for file in files}

    def opened(self, handle: Handle) -> None:
        left, known = handle.left(), self._files.get(handle.fh)
        if left == known:
            # There may be tens of thousands on one image: after a take-over, or where an image was
            # opened anew, the keeper would hear of them all, and of nothing else for seconds.
            return
        self._files[handle.fh] = left
        self.remember(Kind.FILE, handle.fh, left.record())
        if left.length is not None:
            # In place of one that is on record from before, from the last server even.
            self.grown(handle.fh, left.length)
        elif known is not None and known.length is not None:
            # It grows no more, and that length would be taken for the file's by the next server.
            self.forget(Kind.LENGTH, handle.fh)

    def grown(self, fh: int, length: int) -> None:
        if fh in self._files:
            self._files[fh] = replace(self._files[fh], length=length)
        self.remember(Kind.LENGTH, fh, {"length": length})

    def released(self, fh: int) -> None:
        known = self._files.pop(fh, None)
        self.forget(Kind.FILE, fh)
        if known is not None and known.length is not None:
            self.forget(Kind.LENGTH, fh)

    def opened_directory(
        self, fh: int, inode: int, entry: Entry, request: int, last: dict[str, Any] | None
    ) -> None:
        record = {"inode": inode, "entry": entry.record(), "request": request}
        if last is not None:
            record["last"] = last
        self.remember(Kind.DIRECTORY, fh, record)

    def released_directory(self, fh: int) -> None:
        self.forget(Kind.DIRECTORY, fh)

    def begun(self, unique: int, request: dict[str, Any]) -> None:
        self.remember(Kind.REQUEST, unique, request)

    def answered(self, unique: int) -> None:
        self.forget(Kind.REQUEST, unique)

    def moving(self, number: int, move: dict[str, Any]) -> None:
        self.remember(Kind.MOVE, number, move)

    def moved(self, number: int) -> None:
        self.forget(Kind.MOVE, number)

    def ready(self, init_request: bytes) -> None:
        if self.background:
            leave_standard_descriptors()
        self._serving()
        self.tell("ready", init=init_request.hex())

    async def commands(self) -> AsyncIterator[str]:
        while True:
            await trio.lowlevel.wait_readable(self._control)
            try:
                message = self._control.recv(MESSAGE_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                continue
            except ConnectionError:
                return
            if not message:
                return
            yield decoded(message).get("do", "")
