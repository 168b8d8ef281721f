"""Where the keeper of a mount hears commands: status, restart, metrics, and wait.

Who says wait is answered when the mount is over, with the exit code of its keeper.

The keeper listens on a file in the runtime directory of its user, named by the device number of
the mount: whoever can name the mount finds it, by any path, in any mount and network namespace
that shares the directory. Both ends look at who the other one is, and take nothing on trust. The
other end is command_client.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import struct
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rbdfs.config.runtime_directory import runtime_directory
from rbdfs.keeper.messages import send_facts

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

log = logging.getLogger(__name__)

_PEER = struct.Struct("3i")
# How long who has connected may say nothing, in seconds.
_SILENT_S = 1.0
_CALLERS = 64
# What may wait to be done: each in the backlog to be accepted, and then to be heard.
_EVENTS = 512


def socket_path(directory: Path, device: str) -> Path:
    """Return where in *directory* the keeper of the mount with this MAJOR:MINOR listens."""
    return directory / f"{device.replace(':', '-')}.socket"


def forget_keeper(device: str) -> None:
    """Remove the socket of a keeper that was killed, whose MAJOR:MINOR is another mount's by now.

    For a mount that has no keeper, and whose users would be told that it was killed: one that has
    listens in its place.
    """
    directory = runtime_directory()
    if directory is not None:
        with contextlib.suppress(OSError):
            socket_path(directory, device).unlink()


def peer_of(sock: socket.socket) -> tuple[int, int]:
    """Return process and user at the other end, as of when it began to listen or connected."""
    pid, uid, _ = _PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return int(pid), int(uid)


def _has_spoken(sock: socket.socket) -> bool:
    """Tell whether something is there to be heard; who has gone says nothing any more."""
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except OSError:
        return False


@dataclass(slots=True)
class _Caller:
    """Somebody who has connected; *command* is what he has asked for, once he has."""

    sock: socket.socket
    command: str | None = None
    since: float = field(default_factory=time.monotonic)


class CommandSocket:
    """The keeper's end: who has asked for what, until it is answered.

    It is to be waited for as one descriptor: receive() then does one thing, and never blocks.
    """

    def __init__(self) -> None:
        self._listener: socket.socket | None = None
        self._path: Path | None = None
        self._inode = 0
        self._callers: dict[int, _Caller] = {}

    def __enter__(self) -> CommandSocket:
        self._events = select.epoll()
        self._spare = os.open(os.devnull, os.O_RDONLY)
        return self

    def fileno(self) -> int:
        return self._events.fileno()

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()
        self._events.close()
        os.close(self._spare)

    def listen(self, device: str) -> None:
        """Listen for the mount with this MAJOR:MINOR; where that fails, the log says so.

        A socket that is there is of a mount that has gone, for its number is ours by now.
        """
        directory = runtime_directory()
        if directory is None:
            log.info("no runtime directory: nobody can ask for status and restart")
            return
        path = socket_path(directory, device)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        try:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            # bind(2) makes a file of this mode.
            os.fchmod(listener.fileno(), 0o600)
            listener.bind(os.fsencode(path))
            listener.listen()
            listener.setblocking(False)
            self._inode = path.stat().st_ino
        except OSError as exc:
            listener.close()
            log.warning("nobody can ask for status and restart: %s: %s", path, exc.strerror)
            return
        self._listener, self._path = listener, path
        self._events.register(listener, select.EPOLLIN)

    def close(self) -> None:
        """Answer those who have asked that the mount is over, and listen no more."""
        for command in {caller.command for caller in self._callers.values()} - {None}:
            self.answer(str(command), {"error": "the mount is over"})
        for caller in list(self._callers.values()):
            self._drop(caller)
        if self._listener is not None and self._path is not None:
            self._listener.close()
            self._listener = None
            with contextlib.suppress(OSError):
                # Another mount may have the number by now, and its keeper the name.
                if self._path.stat().st_ino == self._inode:
                    self._path.unlink()

    def receive(self) -> str | None:
        """Do what one event asks for; return the command that somebody has asked for with it."""
        self.drop_silent()
        for descriptor, _ in self._events.poll(0, 1):
            if descriptor in self._callers:
                return self._hear(self._callers[descriptor])
            self._accept()
        return None

    def receive_waiting(self) -> None:
        """Hear all who have spoken so far, for close() to answer; no flood of them keeps it."""
        for _ in range(_EVENTS):
            if not self._events.poll(0, 1):
                return
            self.receive()

    def drop_silent(self) -> None:
        """Drop those who have connected a second ago and have not said anything since."""
        now = time.monotonic()
        for caller in list(self._callers.values()):
            if caller.command is not None or now - caller.since <= _SILENT_S:
                continue
            # The keeper may have been busy meanwhile, with hundreds of files that were lost.
            if not _has_spoken(caller.sock):
                self._drop(caller)

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as exc:
            log.warning("cannot hear a command: %s", exc.strerror)
            self._send_away()
            return
        if peer_of(sock)[1] not in (0, os.getuid()):
            sock.close()
            return
        if len(self._callers) >= _CALLERS:
            self._drop(next(iter(self._callers.values())))
        sock.setblocking(False)
        self._callers[sock.fileno()] = _Caller(sock)
        self._events.register(sock, select.EPOLLIN | select.EPOLLRDHUP)

    def _send_away(self) -> None:
        """Drop who has come just now: as long as he waits, he is heard of again at once.

        No descriptor is left, most likely: so one is kept for this.
        """
        assert self._listener is not None
        os.close(self._spare)
        try:
            with contextlib.suppress(OSError):
                self._listener.accept()[0].close()
        finally:
            self._spare = os.open(os.devnull, os.O_RDONLY)

    def _hear(self, caller: _Caller) -> str | None:
        """Return what *caller* asks for; who has asked already has gone, or has to ask anew."""
        try:
            command = caller.sock.recv(256).decode("ascii", "replace")
        except OSError:
            command = ""
        if not command or caller.command is not None:
            self._drop(caller)
            return None
        caller.command = command
        return command

    def _drop(self, caller: _Caller) -> None:
        del self._callers[caller.sock.fileno()]
        # Whoever has inherited the descriptor must not keep it among the events.
        self._events.unregister(caller.sock)
        caller.sock.close()

    def answer(self, command: str, facts: dict[str, Any], *descriptors: int) -> None:
        """Answer everybody who has asked for *command*."""
        for caller in list(self._callers.values()):
            if caller.command == command:
                send_facts(caller.sock, facts, *descriptors)
                self._drop(caller)

    def give(self, command: str, facts: dict[str, Any], memory: int) -> None:
        """Answer likewise, and give them *memory* to read, but not to write."""
        try:
            # A descriptor that is passed on can do what this one can.
            descriptor = os.open(f"/proc/self/fd/{memory}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as exc:
            self.answer(command, {"error": f"cannot be read now: {exc.strerror}"})
            return
        try:
            self.answer(command, facts, descriptor)
        finally:
            os.close(descriptor)
