"""What a listing leaves out, told to the operator once and not with each listing."""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)

_REMEMBERED = 4096
_NAME_LENGTH = 300


class Reports:
    """Remembers what has been reported."""

    def __init__(self) -> None:
        self._reported: set[int] = set()

    def left_out(self, what: str, exc: Exception) -> None:
        """Log that *what*, which is one line, is left out because of *exc*."""
        if len(self._reported) >= _REMEMBERED:
            self._reported.clear()
        key = hash((what, str(exc)))
        if key not in self._reported:
            self._reported.add(key)
            log.warning("left out of the listing: %s: %s", what[:_NAME_LENGTH], exc)
