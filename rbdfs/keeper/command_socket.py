"""``rbdfs status MNT`` and ``rbdfs restart MNT``: the way to the keeper of a mount."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import struct
from typing import TYPE_CHECKING, Any

from rbdfs.errors import UserError

if TYPE_CHECKING:
    from types import TracebackType

COMMANDS = ("restart", "status")
_PEER = struct.Struct("3i")
_ANSWER_BYTES = 1 << 18
# A restart has to drain what is in flight, which the cluster may hold up.
_TIMEOUT_S = 60.0


def address(mountpoint: str) -> str:
    """Return the address of the one that serves a mount point.

    It is abstract: nothing in the file system is left behind or in the way.
    """
    digest = hashlib.sha256(os.fsencode(mountpoint)).hexdigest()[:32]
    return f"\0rbdfs-keeper-{digest}"


def claim(mountpoint: str) -> socket.socket:
    """Take the address of a mount point, until what is returned is closed.

    Raises UserError where another rbdfs has it.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        sock.bind(address(mountpoint))
    except OSError as exc:
        sock.close()
        raise UserError(f"another rbdfs starts or serves on {mountpoint!a}") from exc
    return sock


class CommandSocket:
    """The keeper's end: who has asked for what, until it is answered."""

    def __init__(self, mountpoint: str) -> None:
        self._mountpoint = mountpoint
        self._asking: list[tuple[str, socket.socket]] = []

    def __enter__(self) -> CommandSocket:
        """Take the address; raise UserError where another rbdfs has it."""
        self._listener = claim(self._mountpoint)
        self._listener.listen()
        return self

    def fileno(self) -> int:
        return self._listener.fileno()

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Answer those who have asked that the mount is over, and give up the address."""
        for command in {command for command, _ in self._asking}:
            self.answer(command, {"error": "the mount is over"})
        self._listener.close()

    def receive(self) -> str | None:
        """Accept a caller; return what it asks for, or None where it may not ask, or is gone."""
        caller, _ = self._listener.accept()
        _, uid, _ = _PEER.unpack(
            caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        )
        if uid not in (0, os.getuid()):
            caller.close()
            return None
        # Its one message was sent at once: whoever keeps it back keeps nobody waiting.
        caller.settimeout(1.0)
        try:
            command = caller.recv(256).decode("ascii", "replace")
        except OSError:
            caller.close()
            return None
        self._asking.append((command, caller))
        return command

    def answer(self, command: str, facts: dict[str, Any]) -> None:
        """Answer everybody who has asked for *command*."""
        message = json.dumps(facts).encode()
        for asked, caller in self._asking:
            if asked == command:
                with caller, contextlib.suppress(OSError):
                    caller.send(message)
        self._asking = [asking for asking in self._asking if asking[0] != command]


def ask(mountpoint: str, command: str) -> dict[str, Any]:
    """Ask the keeper of the mount at absolute *mountpoint*; raise UserError where it cannot."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(_TIMEOUT_S)
        try:
            sock.connect(address(mountpoint))
            sock.send(command.encode())
            message = sock.recv(_ANSWER_BYTES)
        except TimeoutError as exc:
            raise UserError(f"{mountpoint!a}: no answer within {_TIMEOUT_S:g} s") from exc
        except OSError as exc:
            raise UserError(f"{mountpoint!a} is not a mount of rbdfs with a keeper") from exc
    if not message:
        raise UserError(f"{mountpoint!a} is not yours to ask")
    answer: dict[str, Any] = json.loads(message)
    if "error" in answer:
        raise UserError(f"{mountpoint!a}: {answer['error']}")
    return answer
