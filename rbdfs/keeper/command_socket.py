"""``rbdfs status MNT`` and ``rbdfs restart MNT``: the way to the keeper of a mount.

The keeper listens on a file in the runtime directory of its user, named by the device number of
the mount: whoever can name the mount finds it, by any path, in any mount and network namespace
that shares the directory. Both ends look at who the other one is, and take nothing on trust.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import select
import socket
import struct
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rbdfs.config.runtime_directory import directories_of, runtime_directory
from rbdfs.errors import UserError
from rbdfs.keeper.messages import send_facts
from rbdfs.kernel.mount import FILE_SYSTEM, Entry, entry_of, place

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

log = logging.getLogger(__name__)

_PEER = struct.Struct("3i")
_TIMEVAL = struct.Struct("@ll")
_ANSWER_BYTES = 1 << 18
# What every answer has, and of which type it is.
_FORM = {"mountpoint": str, "source": str, "state": str, "keeper": int}
# A restart has to drain what is in flight, which the cluster may hold up.
_TIMEOUT_S = 60.0
# How long who asks waits for his turn, and how long who has connected may say nothing, in seconds.
_TURN_S = 5
_SILENT_S = 1.0
_CALLERS = 64


def socket_path(directory: Path, device: str) -> Path:
    """Return where in *directory* the keeper of the mount with this MAJOR:MINOR listens."""
    return directory / f"{device.replace(':', '-')}.socket"


def _peer_uid(sock: socket.socket) -> int:
    _, uid, _ = _PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return int(uid)


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
        if _peer_uid(sock) not in (0, os.getuid()):
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

    def answer(self, command: str, facts: dict[str, Any]) -> None:
        """Answer everybody who has asked for *command*."""
        for caller in list(self._callers.values()):
            if caller.command == command:
                send_facts(caller.sock, facts)
                self._drop(caller)


def ask(path: str, command: str) -> dict[str, Any]:
    """Ask the keeper of the mount that *path* leads to; raise UserError where it cannot."""
    try:
        where = place(path, follow=True)
    except OSError as exc:
        raise UserError(f"{path!a}: {exc.strerror}") from exc
    entry = entry_of(where)
    if entry is None or entry.file_system != FILE_SYSTEM:
        hint = f"to mount a pool of the name {command}: rbdfs -- {command} {path}"
        raise UserError(f"{path!a} is not a mount of rbdfs ({hint})")
    with _connected(path, entry) as sock:
        try:
            sock.settimeout(_TIMEOUT_S)
            sock.send(command.encode())
            message = sock.recv(_ANSWER_BYTES)
        except TimeoutError as exc:
            raise UserError(f"{path!a}: no answer within {_TIMEOUT_S:g} s") from exc
        except OSError as exc:
            raise UserError(f"{path!a}: its keeper has gone: {exc.strerror}") from exc
    answer = parsed_answer(path, message)
    if "error" in answer:
        raise UserError(f"{path!a}: {answer['error']}")
    return answer


def parsed_answer(path: str, message: bytes) -> dict[str, Any]:
    """Return the answer that *message* is; raise UserError where it is none."""
    if not message:
        raise UserError(f"{path!a}: its keeper gives no answer")
    try:
        answer = json.loads(message)
    except (ValueError, RecursionError):
        answer = None
    if isinstance(answer, dict) and (
        isinstance(answer.get("error"), str)
        or all(isinstance(answer.get(name), kind) for name, kind in _FORM.items())
    ):
        return answer
    raise UserError(f"{path!a}: what its keeper says is no answer")


def _connected(path: str, entry: Entry) -> socket.socket:
    """Return a connection to the keeper of a mount, who is its owner or root; raise UserError."""
    strangers = set()
    for address in _addresses(path, entry):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        try:
            # How long connect(2) waits for a turn, where others have come before.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(_TURN_S, 0))
            sock.connect(address)
            uid = _peer_uid(sock)
            if uid in (0, entry.owner):
                return sock
            strangers.add(f"uid {uid} listens there")
        except OSError as exc:
            if exc.errno == errno.EAGAIN:
                sock.close()
                raise UserError(f"{path!a} is busy: no turn within {_TURN_S} s") from exc
            if exc.errno in (errno.EACCES, errno.EPERM):
                strangers.add("not yours to ask")
        sock.close()
    reason = "no keeper answers for it"
    raise UserError(f"{path!a}: {', '.join(sorted(strangers)) or reason}")


def _addresses(path: str, entry: Entry) -> Iterator[bytes | str]:
    """Yield where the keeper of a mount may listen."""
    own = runtime_directory()
    theirs = directories_of(0 if entry.owner is None else entry.owner)
    for directory in dict.fromkeys([*([own] if own else []), *theirs]):
        yield os.fsencode(socket_path(directory, entry.device))
    # A keeper of version 1, which goes on after an upgrade: an abstract address made of the path.
    for mountpoint in dict.fromkeys((os.path.abspath(path), entry.mountpoint)):
        digest = hashlib.sha256(os.fsencode(mountpoint)).hexdigest()[:32]
        yield f"\0rbdfs-keeper-{digest}"
