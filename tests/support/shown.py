"""What a script prints, compared with what a page says that it prints."""

from __future__ import annotations

import re

# What is another one each time, and how wide a table is with the directory's name in it.
_VARYING = (
    (r"\w{3} [ \d]\d (\d\d:\d\d| \d{4})", "DATE"),
    (r"^[0-9a-f]{10,16} (?=\S+$)", "ID "),
    (r"^total \d+$", "total"),
    # As many as this mke2fs makes of its own.
    (r"\d+/(\d+) files (.*), \d+/(\d+) blocks$", r"\1 files \2, \3 blocks"),
    # Where two file systems of the same files differ first.
    (r" differ: byte \d+, line \d+$", " differ"),
    (r"[ \t]+$", ""),
    (r" +", " "),
)


def essential(text: str) -> list[str]:
    """The lines of what a script prints, without what is another one each time."""
    for pattern, replacement in _VARYING:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    return [line for line in text.splitlines() if line]


def console_blocks(markdown: str) -> str:
    """The console blocks of a page, one after the other."""
    blocks = re.findall(r"```console\n(.*?)```\n", markdown, re.DOTALL)
    assert blocks
    return "\n".join(blocks)
