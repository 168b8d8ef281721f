"""What the keeper waits for: descriptors, and one thing that is to be done at a time."""

from __future__ import annotations

import contextlib
import logging
import selectors
import time
from typing import TYPE_CHECKING

from rbdfs.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import HasFileno

    Action = Callable[[], None]

log = logging.getLogger(__name__)

# The longest wait, in seconds, and the pause after a mishap.
_LOOK_S = 1.0
_MISHAP_S = 0.1


class Loop(contextlib.ExitStack):
    """Calls what has been registered, and goes on whatever comes of it.

    All open files depend on this process. Only UserError, the end of a start, ends it.

    Attributes:
        selector: with the action of each descriptor as its data.
    """

    def __init__(self) -> None:
        super().__init__()
        self.selector = self.enter_context(selectors.DefaultSelector())
        self._due: tuple[float, Action] | None = None
        self._last_mishap = ""

    @property
    def idle(self) -> bool:
        """Whether nothing is due, whatever descriptors may bring."""
        return self._due is None

    def watch(self, descriptor: HasFileno, action: Action) -> None:
        """Have *action* done whenever *descriptor* can be read."""
        self.selector.register(descriptor, selectors.EVENT_READ, action)

    def later(self, seconds: float, action: Action) -> None:
        """Have *action* done then, in place of what was to be done later so far."""
        self._due = (time.monotonic() + seconds, action)

    def not_later(self) -> None:
        """Forget what was to be done later."""
        self._due = None

    def wait(self, otherwise: Action) -> bool:
        """Wait for one thing to do, a second at most, and do it; else do *otherwise*.

        Returns False where what was done has failed, which the log tells of.
        """
        due = _LOOK_S if self._due is None else self._due[0] - time.monotonic()
        ready = self.selector.select(min(_LOOK_S, max(0.0, due)))
        if ready:
            # One only: what it does may take others away.
            return self._did(ready[0][0].data)
        if self._due is not None and time.monotonic() >= self._due[0]:
            action, self._due = self._due[1], None
            return self._did(action)
        return self._did(otherwise)

    def _did(self, action: Action) -> bool:
        try:
            action()
        except UserError:
            raise
        except Exception as exc:
            mishap = f"{type(exc).__name__}: {exc}"
            if mishap != self._last_mishap:
                log.exception("the keeper goes on after what nobody expected")
            self._last_mishap = mishap
            # What it was about may be there again at once.
            time.sleep(_MISHAP_S)
            return False
        return True
