"""A mount whose load is watched: its meters, and what its keeper says, without waiting for it."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

from rbdfs.commands.top_figures import Condition, MountLoad, Readings
from rbdfs.errors import UserError
from rbdfs.keeper.command_client import ANSWER_BYTES, Gone, NoKeeper, connected, parsed_answer
from rbdfs.keeper.meters_client import meters_of
from rbdfs.keeper.mount_list import state_of

if TYPE_CHECKING:
    import socket

    from rbdfs.kernel.mount import Entry
    from rbdfs.model.meters import Snapshot

# How long a keeper may take to be found, and a server to say how it does, in seconds.
_TURN_S = 1.0
_ANSWER_S = 2.0
_NO_FAULT = "none"


class WatchedMount:
    """One mount, from here to close(). Raises UserError where nothing is told of it.

    Attributes:
        entry: which one.
        end: what is to be said of its end, once it has come.
        failed: whether that was no clean one.
    """

    def __init__(self, entry: Entry, interval_s: float) -> None:
        self.entry = entry
        self.end: str | None = None
        self.failed = False
        self._readings = Readings(entry.mountpoint, entry.source, interval_s)
        self._condition = Condition("serving")
        self._snapshot: Snapshot | None = None
        self._turns: dict[str, int] | None = None
        self._asked_s = 0.0
        self._status: socket.socket | None = None
        with contextlib.ExitStack() as stack:
            meters = meters_of(entry.mountpoint, entry, _ANSWER_S)
            self._meters = stack.enter_context(meters)
            self._wait = self._question("wait")
            self._stack = stack.pop_all()
        self._learn(self._meters.facts)

    def close(self) -> None:
        """Ask no more."""
        for sock in self.sockets():
            sock.close()
        self._stack.close()

    def sockets(self) -> list[socket.socket]:
        """Return what hear() is to be called for as soon as it can be read."""
        open_ones = [self._wait] if self._status is None else [self._wait, self._status]
        return [sock for sock in open_ones if sock.fileno() >= 0]

    def ask(self) -> None:
        """Ask how it does, unless it has been asked and has not answered yet."""
        if self._status is None and self.end is None:
            try:
                self._status = self._question("status")
            except UserError:
                self._condition = Condition("no answer")
            self._asked_s = time.monotonic()

    @property
    def asked(self) -> bool:
        """Whether an answer is to come, and may be waited for."""
        return self._status is not None and time.monotonic() - self._asked_s < _ANSWER_S

    def hear(self) -> None:
        """Take in what has been said."""
        if self._status is not None and (answer := self._answer(self._status)) is not None:
            self._status.close()
            self._status = None
            self._learn(answer)
        if self.end is None and (answer := self._answer(self._wait)) is not None:
            self._conclude(answer)

    def load(self) -> MountLoad:
        """Look at the meters; return the load since the last look. Raises UserError."""
        if self._status is not None and not self.asked:
            self._condition = Condition("no answer")
        # The last one is kept for what has not changed in it.
        self._snapshot = self._meters.snapshot(self._snapshot)
        return self._readings.load(time.monotonic(), self._snapshot, self._condition)

    def _question(self, command: str) -> socket.socket:
        sock = connected(self.entry.mountpoint, self.entry, _TURN_S)
        try:
            sock.setblocking(False)
            sock.send(command.encode())
        except OSError as exc:
            sock.close()
            raise Gone(f"{self.entry.mountpoint!a}: {exc.strerror}") from exc
        return sock

    def _answer(self, sock: socket.socket) -> dict[str, Any] | None:
        """Return what was answered: an empty dict for nothing of use, None for nothing yet."""
        try:
            return parsed_answer(self.entry.mountpoint, sock.recv(ANSWER_BYTES))
        except BlockingIOError:
            return None
        except (OSError, UserError):
            return {}

    def _learn(self, facts: dict[str, Any]) -> None:
        if "state" not in facts:
            return
        fault, generation = facts.get("last_fault"), facts.get("generation")
        waits_s, reason = _longest_wait(facts.get("waiting"))
        self._condition = Condition(
            state=state_of(facts),
            restarts=generation - 1 if isinstance(generation, int) else None,
            last_fault=fault if isinstance(fault, str) and fault != _NO_FAULT else "",
            lag_ms=self._lag_ms(facts.get("lag")),
            waits_s=waits_s,
            reason=reason,
        )

    def _lag_ms(self, lag: object) -> float | None:
        """Return how long a turn of the server's main thread took at most since the last answer."""
        turns = lag.get("turns") if isinstance(lag, dict) else None
        if not isinstance(turns, dict) or not all(type(each) is int for each in turns.values()):
            return None
        last, self._turns = self._turns, turns
        if last is None or any(turns.get(bound, 0) < count for bound, count in last.items()):
            # Of another server.
            return None
        grown = [bound for bound, count in turns.items() if count > last.get(bound, 0)]
        # What has no bound is no longer than the longest of all.
        longest_ms = lag.get("longest_ms") if isinstance(lag, dict) else None
        bounds = (float(bound) if bound.isdigit() else longest_ms for bound in grown)
        return max((each for each in bounds if isinstance(each, float)), default=0.0)

    def _conclude(self, answer: dict[str, Any]) -> None:
        """Take in the end of the mount, or of the connection that would tell of it."""
        self._wait.close()
        code = answer.get("exit_code")
        if code is None:
            try:
                # Of many who wait for the end, the first is sent away.
                self._wait = self._question("wait")
            except (Gone, NoKeeper):
                self.end, self.failed = "its keeper has gone", True
            except UserError as exc:
                self.end, self.failed = str(exc), True
            return
        self.failed = code != 0
        self.end = f"ended with exit code {code}" if self.failed else "unmounted"


def _longest_wait(waiting: object) -> tuple[float, str]:
    """Return how long an image has waited at most, and why, "" if that is not known."""
    longest = waiting[0] if isinstance(waiting, list) and waiting else None
    if not isinstance(longest, dict) or not isinstance(longest.get("seconds"), int | float):
        return 0.0, ""
    reason = longest.get("reason")
    return float(longest["seconds"]), reason if isinstance(reason, str) else ""
