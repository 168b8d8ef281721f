"""The server as a process of its own, and what one leaves to the next."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from typing import Any

_MESSAGE_BYTES = 1 << 18


@dataclass(slots=True)
class Estate:
    """What a successor needs, as servers tell it.

    Attributes:
        arguments: command line of the mount.
        directory: the working directory that it was given in.
        fuse: the kernel's descriptor, once there is one.
        init: how the kernel introduced itself to the first server, as hexadecimal digits.
        addresses: the last server's Ceph clients.
        fenced: the clients that servers of this mount have fenced last.
        handles: open files by file handle, as Handle.record() wrote them.
    """

    arguments: list[str]
    directory: str
    fuse: int | None = None
    init: str = ""
    addresses: list[str] = field(default_factory=list)
    fenced: list[str] = field(default_factory=list)
    handles: dict[int, dict[str, Any]] = field(default_factory=dict)


class ServerProcess:
    """A running server, or one whose end was not noticed yet."""

    def __init__(self, estate: Estate, *, crashed: bool, quiet: bool) -> None:
        """Start it; *crashed* says that its predecessor could not close anything.

        A *quiet* one has no terminal: a daemon must not hold its caller's pipes.
        """
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        state = asdict(estate) | {
            "handles": list(estate.handles.values()),
            "control": theirs.fileno(),
            "keeper": os.getpid(),
            "crashed": crashed,
        }
        descriptors = [theirs.fileno(), *([] if estate.fuse is None else [estate.fuse])]
        with theirs, os.fdopen(os.memfd_create("rbdfs-state"), "w+") as memory:
            json.dump(state, memory)
            memory.flush()
            os.lseek(memory.fileno(), 0, os.SEEK_SET)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "rbdfs.server", str(memory.fileno())],
                pass_fds=[*descriptors, memory.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL if quiet else None,
                stderr=subprocess.DEVNULL if quiet else None,
                # A terminal's Ctrl-C is for the keeper, which tells the server.
                process_group=0,
            )
        self.pid = self._process.pid

    def receive(self) -> dict[str, Any] | None:
        """Return the next event, or None where the server has ended or closed its side."""
        try:
            message = self.control.recv(_MESSAGE_BYTES)
        except ConnectionResetError:
            return None
        event: dict[str, Any] | None = json.loads(message) if message else None
        return event

    def send(self, message: dict[str, Any], descriptor: int | None = None) -> None:
        """Send *message*; a server that is gone does not get it, and receive() tells of that."""
        with contextlib.suppress(BrokenPipeError):
            descriptors = [] if descriptor is None else [descriptor]
            socket.send_fds(self.control, [json.dumps(message).encode()], descriptors)

    def kill(self) -> None:
        self._process.kill()

    def wait(self, timeout_s: float) -> int:
        """Close the control socket and return the exit code, if need be after a kill."""
        self.control.close()
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
