"""Which errors the manual allows while a fault is there, and after it."""

from __future__ import annotations

import errno
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from soaking.operations import Event, Window

# The mount is dead until it is made anew; who had a file open has lost it.
_DEAD = frozenset({errno.ENOTCONN, errno.ECONNABORTED})
_FENCED = frozenset({errno.ESHUTDOWN})
_ERRORS = {"crash": _DEAD, "blocklist": _FENCED}
# A page that cannot be had is a signal, which the user tells of as EIO.
_MAPPED = frozenset({"mmap_read", "mmap_write", "read_all"})
# What closes a file that was read asks the cluster whether all of that is still there, for 5 s.
_CLOSING = frozenset({"close", "dup_close", "fork_close", "mmap_read", "read_all"})
# Design, section 6: after a crash of keeper and server, writes are possible within 3 s; the rest
# is for a busy machine.
_FENCE_S = 6.0
# Changes elsewhere are seen within 2 s; the rest is for a busy machine.
SEEN_S = 6.0


class Allowances:
    """What the faults of one episode excuse.

    *patience* is how many times as long as usual everything may take: a machine that does much else
    at the same time is slow.
    """

    def __init__(self, windows: Sequence[Window], patience: float = 1.0) -> None:
        self._windows = windows
        self._patience = patience

    def allows(self, event: Event, opened: float | None = None) -> bool:
        """Whether the error of an event is one that some fault may cause.

        *opened* is when the descriptor that it is about was opened.
        """
        if event.errno == errno.ETIMEDOUT and event.operation.kind in _CLOSING:
            return self.stood_still(event)
        return any(self._excuses(window, event, opened) for window in self._windows)

    def stood_still(self, event: Event) -> bool:
        """Whether the cluster did not answer for a part of the event."""
        return any(
            window.kind in ("osd", "mon")
            and window.start < event.end
            and event.start < window.end + 0.5
            for window in self._windows
        )

    def _excuses(self, window: Window, event: Event, opened: float | None) -> bool:
        if window.mount != event.mount or event.end < window.start:
            return False
        if window.kind in ("crash", "remount") and math.isinf(window.end):
            # Nothing could be mounted again: that is a finding by itself.
            return True
        errors = _ERRORS.get(window.kind, frozenset())
        if event.operation.kind in _MAPPED and errors:
            errors |= {errno.EIO}
        within = event.start < window.end + 0.5
        held = opened is not None and opened < window.end
        if event.errno in errors:
            return within or held
        if event.errno == errno.ENOENT and window.kind == "crash":
            # The dead mount goes before the new one comes: between them is the bare directory.
            return event.start < window.end
        if event.errno == errno.EBUSY:
            # Of the client that is dead; or of the mount that still serves the old descriptors.
            fenced = window.kind == "crash" and event.start < window.end + _FENCE_S * self._patience
            return fenced or window.kind == "remount"
        return False

    def harms(self, event: Event, opened: float) -> bool:
        """Whether a fault may have taken a descriptor, so that the file is what nobody knows."""
        return any(
            window.kind in ("crash", "blocklist", "remount")
            and window.mount == event.mount
            and window.start < event.end
            and opened < window.end
            for window in self._windows
        )

    def lost(self, event: Event) -> bool:
        """Whether nothing was mounted any more, so that nothing can be expected."""
        return any(
            math.isinf(window.end) and window.mount == event.mount and window.start < event.end
            for window in self._windows
        )

    def seen_within(self, start: float, end: float) -> float:
        """The time in which a change elsewhere has to be seen: longer while a fault lasts."""
        return SEEN_S * self._patience + sum(
            min(window.end, end) - max(window.start, start - SEEN_S)
            for window in self._windows
            if window.start < end and window.end > start - SEEN_S
        )
