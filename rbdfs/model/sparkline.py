"""A sparkline: how figures went, as a line of blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

BLOCKS = " ▁▂▃▄▅▆▇█"
ASCII = " .:-=+*#@"


def sparkline(figures: Sequence[float], width: int, glyphs: str = BLOCKS) -> str:
    """Return *figures*, the latest at the right end, in *width* characters.

    Where there are more of them than characters, one stands for the highest of several. The
    highest of all is a full block; what is more than nothing is never drawn as nothing.
    """
    per_cell = max(-(-len(figures) // width), 1)
    # From the end, so that what is in one cell with what is there for good.
    ends = range(len(figures), 0, -per_cell)
    cells = [max(figures[max(end - per_cell, 0) : end]) for end in ends][::-1]
    highest = max(cells, default=0.0)
    drawn = "".join(_glyph(each, highest, glyphs) for each in cells)
    return drawn.rjust(width, glyphs[0])


def _glyph(figure: float, highest: float, glyphs: str) -> str:
    if figure <= 0:
        return glyphs[0]
    return glyphs[max(round(figure / highest * (len(glyphs) - 1)), 1)]
