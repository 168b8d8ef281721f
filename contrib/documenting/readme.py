"""README's table of options."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rbdfs.config.option_texts import options

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEADER = "| option | default | meaning, and why |\n| --- | --- | --- |\n"
_TABLE = re.compile(re.escape(_HEADER) + r"(?:\|.*\n)*")


def with_options(text: str) -> str:
    """README with the table that the options of now make."""
    table = _HEADER + "".join(f"{row}\n" for row in _rows())
    changed, count = _TABLE.subn(lambda _: table, text)
    assert count == 1, "README has no table of options"
    return changed


def _rows() -> Iterator[str]:
    for option in options():
        cells = (", ".join(f"`{form}`" for form in option.forms), option.default, option.text)
        yield (
            "| " + " | ".join(cell.replace("|", "\\|") for cell in cells).replace("  ", " ") + " |"
        )
