"""The way to the keeper of a mount, for `rbdfs status` and the other commands.

Whoever can name the mount finds its keeper. What it says is taken on trust no more than who it is.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import socket
import struct
from typing import TYPE_CHECKING, Any

from rbdfs.config.runtime_directory import directories_of, runtime_directory
from rbdfs.errors import UserError
from rbdfs.keeper.command_socket import peer_of, socket_path
from rbdfs.kernel.mountpoint import rbdfs_entry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rbdfs.kernel.mount import Entry

_TIMEVAL = struct.Struct("@ll")
ANSWER_BYTES = 1 << 18
# What every answer has, and of which type it is.
_FORM = {"mountpoint": str, "source": str, "state": str, "keeper": int}
# A restart has to drain what is in flight, which the cluster may hold up.
_TIMEOUT_S = 60.0
# How long who asks waits for his turn, in seconds.
_TURN_S = 5


class Silent(UserError):
    """A keeper is there that gives no answer in time, to this question or to the others."""


class Gone(UserError):
    """A keeper has been there, and has been killed."""


class NoKeeper(UserError):
    """None listens where it would."""


def entry_at(path: str, command: str) -> Entry:
    """Return the mount of rbdfs that *path* leads to; raise UserError where it leads to none."""
    entry = rbdfs_entry(path)
    if entry is None:
        hint = f"to mount a pool of the name {command}: rbdfs -- {command} {path}"
        raise UserError(f"{path!a} is not a mount of rbdfs ({hint})")
    return entry


def ask(path: str, command: str) -> dict[str, Any]:
    """Ask the keeper of the mount that *path* leads to; raise UserError where it cannot."""
    return ask_keeper(path, entry_at(path, command), command, _TIMEOUT_S)


def ask_keeper(path: str, entry: Entry, command: str, timeout_s: float) -> dict[str, Any]:
    """Ask the keeper of a mount, which *path* is said to be; raise UserError where it cannot.

    No file system is asked. Nothing takes much longer than *timeout_s*.
    """
    with connected(path, entry, timeout_s) as sock:
        message, _ = exchanged(path, sock, command, timeout_s)
    answer = parsed_answer(path, message)
    if "error" in answer:
        raise UserError(f"{path!a}: {answer['error']}")
    return answer


def exchanged(
    path: str, sock: socket.socket, command: str, timeout_s: float, most: int = 0
) -> tuple[bytes, list[int]]:
    """Return what the keeper at the other end of *sock* says to *command*; raise UserError.

    With it come the descriptors that it gives, *most* of them at most, which the caller closes.
    """
    try:
        sock.settimeout(timeout_s)
        sock.send(command.encode())
        message, descriptors, _, _ = socket.recv_fds(sock, ANSWER_BYTES, most)
    except TimeoutError as exc:
        raise Silent(f"{path!a}: no answer within {timeout_s:g} s") from exc
    except OSError as exc:
        raise UserError(f"{path!a}: its keeper has gone: {exc.strerror}") from exc
    return message, descriptors


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


def connected(path: str, entry: Entry, timeout_s: float) -> socket.socket:
    """Return a connection to the keeper of a mount, who is its owner or root; raise UserError."""
    strangers: set[str] = set()
    kind: type[UserError] = NoKeeper
    turn_s = math.ceil(min(timeout_s, _TURN_S))
    for address in _addresses(path, entry):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        try:
            # How long connect(2) waits for a turn, where others have come before.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(turn_s, 0))
            sock.connect(address)
            _, uid = peer_of(sock)
            if uid in (0, entry.owner):
                return sock
            strangers.add(f"uid {uid} listens there")
        except OSError as exc:
            if exc.errno == errno.EAGAIN:
                sock.close()
                raise Silent(f"{path!a} is busy: no turn within {turn_s} s") from exc
            if exc.errno in (errno.EACCES, errno.EPERM):
                strangers.add(
                    f"not yours to ask, but uid {entry.owner}'s who mounted it, and root's"
                )
            elif exc.errno == errno.ECONNREFUSED and isinstance(address, bytes):
                # Its file is removed by a keeper that ends, and by the next mount of its number.
                kind = Gone
        sock.close()
    if strangers:
        raise UserError(f"{path!a}: {', '.join(sorted(strangers))}")
    if kind is Gone:
        raise Gone(f"{path!a}: mounted, but its server has gone: mount it again, or umount it")
    raise kind(f"{path!a}: no keeper answers for it")


def _addresses(path: str, entry: Entry) -> Iterator[bytes | str]:
    """Yield where the keeper of a mount may listen."""
    own = runtime_directory()
    theirs = directories_of(0 if entry.owner is None else entry.owner)
    for directory in dict.fromkeys([*([own] if own else []), *theirs]):
        yield os.fsencode(socket_path(directory, entry.device))
    # A keeper of version 1, which goes on after an upgrade: an abstract address made of the path.
    paths = [entry.mountpoint]
    # Of a relative path, where the working directory has gone, nothing more is known.
    with contextlib.suppress(OSError):
        paths.insert(0, os.path.abspath(path))
    for mountpoint in dict.fromkeys(paths):
        digest = hashlib.sha256(os.fsencode(mountpoint)).hexdigest()[:32]
        yield f"\0rbdfs-keeper-{digest}"
