"""The time that a start may take, whatever does not answer."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from rbdfs.config.logging_setup import leave
from rbdfs.errors import EXIT_FAILURE

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

# In which the error of who is waited for may arrive, which is worded better.
_GRACE_S = 0.5


class StartDeadline:
    """Ends the process when a start takes too long, and says what it has waited for: a context.

    A call of librados cannot be interrupted, and keeps its thread for as long as the cluster is
    away: nothing but the end of the process ends it.

    Attributes:
        awaited: what is being done now.
    """

    def __init__(self, seconds: float, give_up: Callable[[str], object]) -> None:
        """*give_up* is called with why nothing will be mounted, in a thread of its own."""
        self.awaited = "connecting"
        self._seconds, self._give_up = seconds, give_up
        self._watchdog = threading.Timer(seconds + _GRACE_S, self._expire)
        self._watchdog.daemon = True

    def __enter__(self) -> StartDeadline:
        self._watchdog.start()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.over()

    def tries(self, what: str) -> None:
        """Say what is being done now."""
        self.awaited = what

    def over(self) -> None:
        """Stop watching: the cluster has answered all that is asked before the mount."""
        self._watchdog.cancel()

    def _expire(self) -> None:
        self._give_up(f"the cluster did not answer within {self._seconds:g} s: {self.awaited}")
        leave(EXIT_FAILURE)
