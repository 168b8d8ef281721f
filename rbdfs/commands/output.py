"""Answers on stdout, and how they are worded."""

from __future__ import annotations

import json

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def print_json(answer: object) -> None:
    """Print *answer* as people read JSON, too."""
    print(json.dumps(answer, indent=2))


def short_size(length: int) -> str:
    """Return a number of bytes in the unit that it has few digits in: ``1.5 GiB``."""
    value, units = float(length), iter(_UNITS)
    unit = next(units)
    # What would be rounded to 1024 is 1 of the next.
    while abs(value) >= 1023.95 and (larger := next(units, None)):
        value, unit = value / 1024, larger
    return f"{value:.1f}".removesuffix(".0") + f" {unit}"


def exact_size(length: int) -> str:
    """Return a number of bytes both ways: ``1.5 GiB (1610612736 bytes)``."""
    return short_size(length) if abs(length) < 1024 else f"{short_size(length)} ({length} bytes)"
