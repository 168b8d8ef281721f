"""Text of others, fit for a terminal and for a line of the log."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection


def printable(text: str) -> str:
    r"""Return *text* with escapes for all that a terminal may obey: ``\x1b``."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def first_of(
    texts: Collection[str],
    most: int,
    between: str = ", ",
    shown: Callable[[str], str] = printable,
) -> str:
    """Return the first *most* of *texts*, each as *shown*, and how many more there are."""
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return between.join(map(shown, islice(texts, most))) + more
