"""README's table of commands."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from documenting.reference import table
from rbdfs.config.commands import COMMANDS

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEADER = ("command", "what it does")
_TABLE = re.compile(rf"\| {' | '.join(_HEADER)} \|\n".replace(" | ", r" \| ") + r"(?:\|.*\n)*")
_REFERENCE = "contrib/man/rbdfs.8.md"


def with_commands(text: str) -> str:
    """README with the table that the commands of now make."""
    made = table(_HEADER, _rows()) + "\n"
    changed, count = _TABLE.subn(lambda _: made, text)
    assert count == 1, "README has no table of commands"
    return changed


def _rows() -> Iterator[tuple[str, str]]:
    for name, command in COMMANDS.items():
        # What has to be said, without what may be.
        form = re.sub(r"\[.*?\] ?", "", command.forms[-1]).strip()
        said = "`rbdfs [mount] SOURCE MOUNTPOINT`" if name == "mount" else f"`rbdfs {name} {form}`"
        yield f"[{said.replace(' `', '`')}]({_REFERENCE}#rbdfs-{name})", command.summary
