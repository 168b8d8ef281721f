"""The users' processes: started, listened to, and freed where they hang."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soaking.operations import Event, Finding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from soaking.operations import Script

END_S = 10.0
PACKAGES = Path(__file__).resolve().parents[1]


class UserProcess:
    """One user, and the operation that it is at."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-B", "-m", "soaking.user", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": str(PACKAGES)},
                start_new_session=True,
            )
        self.connection = Connection(ours.detach())
        self.script: Script | None = None
        self.begun: tuple[int, float] | None = None
        self.over = True

    @property
    def pid(self) -> int:
        return self._process.pid

    def play(self, script: Script, **message: Any) -> None:
        self.script, self.begun, self.over = script, None, False
        self.connection.send(message | {"operations": script.operations, "user": script.user})

    def receive(self) -> Event | None:
        """What it tells next; None where that is no operation that has ended."""
        assert self.script is not None
        try:
            kind, *facts = self.connection.recv()
        except (EOFError, ConnectionError):
            raise ChildProcessError(f"user {self.script.user} has died") from None
        if kind == "begin":
            self.begun = (facts[0], facts[1])
            return None
        self.begun = None
        if kind == "over":
            self.over = True
            return None
        index, start, end, error, value = facts
        operation = self.script.operations[index]
        return Event(
            self.script.user, self.script.mount, index, operation, start, end, error, value
        )

    def end(self) -> None:
        """Kill it, with its children; who hangs in the kernel has to be freed before."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)
        self.connection.close()


class Users:
    """As many users as an episode has; they live on from one to the next."""

    def __init__(self) -> None:
        self._idle: list[UserProcess] = []
        self._busy: list[UserProcess] = []

    def __enter__(self) -> Users:
        return self

    def __exit__(self, *_: object) -> None:
        for user in (*self._idle, *self._busy):
            user.end()

    def play(self, script: Script, **message: Any) -> None:
        user = self._idle.pop() if self._idle else UserProcess()
        self._busy.append(user)
        user.play(script, **message)

    def events(self, bound_s: float) -> tuple[list[Event], list[Finding]]:
        """All that happens until every user is done.

        A user whose operation takes longer than *bound_s* is a finding, and is left where it is:
        see `replace_hanging`.
        """
        events: list[Event] = []
        findings: list[Finding] = []
        hanging: set[int] = set()
        while waiting := [u for u in self._busy if not u.over and u.pid not in hanging]:
            for ready in wait([user.connection for user in waiting], timeout=1.0):
                user = next(user for user in waiting if user.connection is ready)
                try:
                    event = user.receive()
                except ChildProcessError as exc:
                    findings.append(Finding("harness", str(exc)))
                    hanging.add(user.pid)
                    continue
                if event is not None:
                    events.append(event)
            for user in waiting:
                if user.begun is not None and time.monotonic() - user.begun[1] > bound_s:
                    hanging.add(user.pid)
                    findings.append(_hang(user, bound_s))
        return events, findings

    def release(self) -> bool:
        """Let the users go who are done; return whether some are not, and are killed."""
        stuck = [user for user in self._busy if not user.over]
        self._idle += [user for user in self._busy if user.over]
        self._busy = []
        for user in stuck:
            # In parallel: each may take its time to die.
            threading.Thread(target=user.end, daemon=True).start()
        return bool(stuck)


def _hang(user: UserProcess, bound_s: float) -> Finding:
    assert user.script is not None
    assert user.begun is not None
    operation = user.script.operations[user.begun[0]]
    message = f"no end within {bound_s:.0f} s: {operation}\n{stacks([user.pid])}"
    return Finding(
        "hang", message, operation.story, operation.kind, user.script.user, user.begun[0]
    )


def stacks(pids: Sequence[int]) -> str:
    """Where the threads of processes, and of their children, are in the kernel."""
    lines = []
    for pid in [*pids, *(child for parent in pids for child in children(parent))]:
        for task in sorted(Path(f"/proc/{pid}/task").glob("*")):
            with contextlib.suppress(OSError):
                name = (task / "comm").read_text().strip()
                where = _read(task / "stack") or _read(task / "wchan")
                lines.append(f"{pid}/{task.name} {name}: {' < '.join(where.split(chr(10))[:8])}")
    return "\n".join(lines)


def children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [int(child) for child in text.split()]
    return []


def _read(path: Path) -> str:
    try:
        return path.read_text().strip().replace("[<0>] ", "")
    except OSError:
        return ""
