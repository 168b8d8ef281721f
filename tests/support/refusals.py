"""System calls that are refused."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def refusal(call: Callable[[], object]) -> str:
    """The name of the errno that a call fails with, or "no error"."""
    try:
        call()
    except OSError as exc:
        return errno.errorcode[exc.errno or 0]
    return "no error"
