"""A file drawn as characters, each of which stands for as many bytes: the darker, the more data."""

from __future__ import annotations

import locale
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rbdfs.commands.output import short_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rbdfs.commands.extents import Extent

_BLOCKS, _ASCII = "·░▒▓█", ".:+*#"
_SMALLEST_BYTES = 4096
_LINES = 8
# Room for "1023.9 MiB".
_LABEL_CHARACTERS = 10


@dataclass(frozen=True, slots=True)
class Canvas:
    """How a file is drawn.

    Attributes:
        size: bytes of the file.
        cell_bytes: how much of it each character stands for, a power of 2.
        width: characters of a line, a power of 2.
        shades: characters for no data, some, and so on up to nothing but data.
    """

    size: int
    cell_bytes: int
    width: int
    shades: str

    @classmethod
    def of(cls, size: int, columns: int) -> Canvas:
        """Return one for a file of *size* bytes, at most *columns* wide, with few lines."""
        # A power of 2 too, so that lines begin at round numbers.
        width = 1 << max(columns - _LABEL_CHARACTERS - 3, 8).bit_length() - 1
        cell = max(math.ceil(size / (width * _LINES)), _SMALLEST_BYTES)
        return cls(size, 1 << (cell - 1).bit_length(), width, _shades())

    def lines(self, extents: Iterable[Extent]) -> Iterator[str]:
        """Yield the lines of a file that has *extents*, and what the characters mean."""
        filled = [0] * math.ceil(self.size / self.cell_bytes)
        for extent in extents:
            if extent.data:
                self._fill(filled, extent)
        cells = "".join(map(self._shade, filled, range(len(filled))))
        for first in range(0, len(cells), self.width):
            label = short_size(first * self.cell_bytes)
            yield f"{label:>{_LABEL_CHARACTERS}}  {cells[first : first + self.width]}"
        yield (
            f"{self.shades[0]} no data  {self.shades[1:-1]} some  {self.shades[-1]} data;"
            f" each is {short_size(self.cell_bytes)}"
        )

    def _fill(self, filled: list[int], extent: Extent) -> None:
        offset, end = extent.start, extent.start + extent.length
        while offset < end:
            cell = offset // self.cell_bytes
            up_to = min(end, (cell + 1) * self.cell_bytes)
            filled[cell] += up_to - offset
            offset = up_to

    def _shade(self, filled: int, cell: int) -> str:
        if not filled:
            return self.shades[0]
        length = min(self.cell_bytes, self.size - cell * self.cell_bytes)
        if filled >= length:
            return self.shades[-1]
        between = self.shades[1:-1]
        return between[filled * len(between) // length]


def _shades() -> str:
    """Return characters that the locale has."""
    # Not what Python encodes with: for LC_ALL=C that is UTF-8 as well.
    try:
        _BLOCKS.encode(locale.nl_langinfo(locale.CODESET))
    except (LookupError, UnicodeEncodeError):
        return _ASCII
    return _BLOCKS
