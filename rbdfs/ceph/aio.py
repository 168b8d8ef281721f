"""Await callback-style requests of librbd and librados from a Trio task.

librbd and librados finish every ``aio_*`` request on a thread of their own. Those threads meet
Trio here and nowhere else.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

import outcome
import trio

from rbdfs.ceph.pace import Pace
from rbdfs.errors import failure

if TYPE_CHECKING:
    from collections.abc import Callable


class Completion(Protocol):
    """What this module uses of ``rbd.Completion`` and ``rados.Completion``."""

    def get_return_value(self) -> int:
        """Return the result of the request: a count, or a negative errno."""


class AioBridge:
    """Puts tasks back on Trio's run queue when their requests are complete.

    Create it inside ``trio.run``; it belongs to that run.

    Attributes:
        pace: for those who compute long with what they get.
    """

    def __init__(self, answered: Callable[[], None] = lambda: None) -> None:
        """*answered* is called when the cluster has answered something."""
        self._answered = answered
        self.pace = Pace()
        trio.lowlevel.add_instrument(self.pace)
        self._token = trio.lowlevel.current_trio_token()
        self._completed: deque[tuple[trio.lowlevel.Task, outcome.Outcome[Any]]] = deque()
        self._wake_pending = False

    async def call(
        self, action: str, submit: Callable[[Callable[..., None]], object]
    ) -> tuple[int, Any]:
        """Submit one request; return librbd's ``(return value, data)``.

        *action* begins the message of an error: what is done to which image, with ``off~len``.

        *submit* is called with the callback to pass on; what it raises is raised here. It must
        keep the request's buffer alive: a ``functools.partial`` that holds it does.

        Raises OSError for a negative return value. Cancellation is deferred until the request
        is complete, because librbd uses the caller's buffer until then.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        task = trio.lowlevel.current_task()

        def on_complete(completion: Completion, data: object = None) -> None:
            # Runs on a librbd thread. The binding swallows whatever is raised here, and then
            # nothing would ever wake the task: so nothing here may raise.
            result = outcome.capture(lambda: (completion.get_return_value(), data))
            self._completed.append((task, result))
            self._wake()

        submit(on_complete)
        ret, data = await trio.lowlevel.wait_task_rescheduled(
            lambda _raise_cancel: trio.lowlevel.Abort.FAILED
        )
        if ret < 0:
            raise failure(ret, f"{action}: {os.strerror(-ret)}")
        self._answered()
        return ret, data

    def _wake(self) -> None:
        # Entering Trio costs a lock and a write to a socket: completions that arrive before
        # Trio gets round to the first of them share its entry. Two threads that both see no
        # pending wake make two, and the second finds nothing to do.
        if self._wake_pending:
            return
        self._wake_pending = True
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._reschedule_completed)

    def _reschedule_completed(self) -> None:
        # Cleared before the queue is drained: a completion that is appended from now on
        # asks for a wake of its own.
        self._wake_pending = False
        while self._completed:
            trio.lowlevel.reschedule(*self._completed.popleft())
