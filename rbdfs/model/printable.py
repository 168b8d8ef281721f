"""Text of others, fit for a terminal and for a line of the log."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""Return *text* with escapes for all that a terminal may obey: ``\x1b``."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
