"""The keeper of version 1, as servers know it: what it hears, what it hands over.

Version 1 is that of the last commit whose messages had no number (2592bf5). Its keeper calls
`self._on_EVENT(**fields)`, and hands over its Estate as it is.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rbdfs.kernel import connection

if TYPE_CHECKING:
    from pathlib import Path

# The fields that each event has, and those that it may have; of a status it hands on whatever it is
# told.
_EVENTS: dict[str, tuple[set[str], set[str]]] = {
    "mount": (set(), set()),
    "left": (set(), {"addresses", "fenced", "opened", "released"}),
    "ready": ({"init"}, set()),
    "failed": ({"message", "exit_code"}, set()),
    "replace_me": (set(), set()),
    "ended": ({"exit_code"}, set()),
}


class OldKeeper:
    """Its memory: it fails of what it would have died of."""

    def __init__(self, state: dict[str, Any]) -> None:
        self._state = {name: state[name] for name in state if name != "handles"}
        self._handles = {handle["fh"]: handle for handle in state.get("handles", [])}
        self._replacing = False

    def hear(self, message: dict[str, Any]) -> str:
        """Take a message in; return the name of its event."""
        fields = dict(message)
        event: str = fields.pop("event")
        if event != "status":
            needed, others = _EVENTS[event]
            assert needed <= fields.keys() <= needed | others, (event, fields)
        if event == "replace_me":
            self._replacing = True
        elif event == "ready":
            self._state |= fields
        elif event == "left" and (not self._replacing or "fenced" in fields):
            self._learn(**fields)
        return event

    def _learn(self, opened: Any = None, released: Any = None, **others: Any) -> None:
        self._state |= {name: value for name, value in others.items() if value is not None}
        if opened is not None:
            self._handles[opened["fh"]] = opened
        if released is not None:
            self._handles.pop(released, None)

    @property
    def init(self) -> str:
        """How the kernel introduced itself, as hexadecimal digits."""
        init: str = self._state["init"]
        return init

    @init.setter
    def init(self, init: str) -> None:
        self._state["init"] = init

    def state(self) -> dict[str, Any]:
        """What it starts a server with."""
        self._replacing = False
        return self._state | {"handles": list(self._handles.values())}


@dataclass
class OldServer:
    """A server of this version, below a keeper of version 1."""

    process: subprocess.Popen[bytes]
    control: socket.socket


class OldMount:
    """A mount with a keeper of version 1, as a context: its servers are of this version.

    The test is the keeper, and does one thing after the other: hear_until() has it wait.

    Attributes:
        program: what Python runs as a server.
    """

    def __init__(self, conf: Path, source: str, path: Path, log: Path) -> None:
        self.program = ["-m", "rbdfs.server"]
        self._path = path
        self._device: int | None = None
        self.server: OldServer | None = None
        self.keeper = OldKeeper(
            {
                "arguments": ["-f", "-c", str(conf), "--log-file", str(log), source, path.name],
                "directory": str(path.parent),
                "fuse": None,
                "init": "",
                "addresses": [],
                "fenced": [],
            }
        )

    def __enter__(self) -> OldMount:
        try:
            self.start(crashed=False)
            self.hear_until("mount")
            assert self.server is not None
            self._device = connection.open_kernel(str(self._path))
            self.keeper._state["fuse"] = self._device
            socket.send_fds(self.server.control, [b"{}"], [self._device])
            self.hear_until("ready")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._device is not None:
            os.close(self._device)
            subprocess.run(["umount", "-l", "--", self._path], check=False, capture_output=True)
        if self.server is not None:
            self.server.process.kill()
            self.end()

    def start(self, *, crashed: bool) -> None:
        """Start a server with what the last one has left."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(30.0)
        state = self.keeper.state()
        state |= {"control": theirs.fileno(), "keeper": os.getpid(), "crashed": crashed}
        descriptors = [theirs.fileno(), *([] if self._device is None else [self._device])]
        with theirs, os.fdopen(os.memfd_create("rbdfs-state"), "w+") as memory:
            json.dump(state, memory)
            memory.flush()
            os.lseek(memory.fileno(), 0, os.SEEK_SET)
            process = subprocess.Popen(
                [sys.executable, *self.program, str(memory.fileno())],
                pass_fds=[*descriptors, memory.fileno()],
                stdin=subprocess.DEVNULL,
                cwd="/",
            )
        self.server = OldServer(process, ours)

    def hear_until(self, awaited: str | None) -> None:
        """Hear the server until an event, or (None) to its end."""
        assert self.server is not None
        event = None
        while awaited is None or event != awaited:
            message = self.server.control.recv(1 << 18)
            if not message:
                assert awaited is None, f"the server ended before {awaited!r}"
                return
            event = self.keeper.hear(json.loads(message))

    def send(self, command: str) -> None:
        """Send what `rbdfs restart` and a signal have the keeper send."""
        assert self.server is not None
        self.server.control.send(json.dumps({"do": command}).encode())

    def end(self) -> int:
        """Wait for the end of the server; return its exit code."""
        assert self.server is not None
        code = self.server.process.wait(30.0)
        self.server.control.close()
        self.server = None
        return code
