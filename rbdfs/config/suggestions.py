"""The word that somebody may have meant."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# As difflib counts it: snapshot and snapshots are 0.94, move and mode 0.75, lock and clock 0.89.
_LIKE = 0.75


def did_you_mean(word: str, words: Iterable[str], prefix: str = "") -> str:
    """Return what is to be said after an error about *word*; "" where none of *words* is like it.

    *prefix* is said before what was found.
    """
    # Where nothing goes wrong nobody needs it.
    import difflib

    nearest = difflib.get_close_matches(word, sorted(set(words)), 1, _LIKE)
    return f": did you mean {prefix}{nearest[0]}?" if nearest else ""
