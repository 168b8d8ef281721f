"""Text as man(7) wants it."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_SPECIAL = {"\\": r"\e", "'": r"\(aq", "^": r"\(ha", "~": r"\(ti", '"': r"\(dq"}


@dataclass(frozen=True, slots=True)
class Release:
    """Of which version and date (YYYY-MM-DD) a page says that it is."""

    version: str
    date: str


def head(name: str, section_number: int, summary: str, release: Release) -> Iterator[str]:
    """What every page begins with."""
    yield '.\\" Made by contrib/document: what is changed here is lost.\n'
    title = escaped(name.upper(), literal=True)
    book = "System Administration" if section_number == 8 else "Miscellaneous"
    yield f'.TH {title} {section_number} {release.date} "rbdfs {release.version}" "{book}"\n'
    # No hyphenation, and no spaces between words but one: what is typed is to be found.
    yield ".nh\n.ad l\n"
    yield section("name")
    yield f"{escaped(name, literal=True)} \\- {escaped(summary)}\n"


def escaped(text: str, *, literal: bool = False) -> str:
    """Plain text; with *literal*, what is typed, whose hyphens are minus signs."""
    text = "".join(_SPECIAL.get(char, char) for char in text)
    return text.replace("-", r"\-") if literal else text


def marked(text: str) -> str:
    """Text with what is typed in bold, which is between backquotes there."""
    parts = text.split("`")
    return "".join(
        rf"\fB{escaped(part, literal=True)}\fR" if number % 2 else escaped(part)
        for number, part in enumerate(parts)
    )


def form(text: str) -> str:
    """What is typed, with the words in capitals that stand for others in italics."""
    parts = re.split(r"(?<![A-Za-z-])([A-Z]{1,}[A-Z]*)(?![A-Za-z])", text)
    return "".join(
        rf"\fI{part}\fR" if number % 2 else _bold(part) for number, part in enumerate(parts)
    )


def _bold(text: str) -> str:
    """Words in bold; brackets, bars and dots of the notation are not typed."""
    parts = re.split(r"([\[\]|]|\.\.\.|,? )", text)
    return "".join(
        escaped(part) if number % 2 else rf"\fB{escaped(part, literal=True)}\fR" if part else ""
        for number, part in enumerate(parts)
    )


def paragraph(text: str) -> str:
    return f".PP\n{filled(text)}"


def item(label: str, text: str) -> str:
    """A paragraph with a label, which is roff already."""
    return f".TP\n{_line(label)}\n{filled(text)}"


def bullet(text: str) -> str:
    return f".IP \\(bu 2\n{filled(text)}"


def filled(text: str) -> str:
    """Lines of marked text, of a length that can be read and compared."""
    lines = textwrap.wrap(marked(text), 79, break_long_words=False, break_on_hyphens=False)
    return "".join(f"{_line(line)}\n" for line in lines)


def page(parts: Iterable[str]) -> str:
    """The parts as one text; what begins a section is a paragraph anyhow."""
    return re.sub(r"^(\.S[HS] .*\n)\.PP\n", r"\1", "".join(parts), flags=re.MULTILINE)


def example(text: str) -> str:
    lines = "\n".join(_line(escaped(line, literal=True)) for line in text.strip("\n").split("\n"))
    return f".PP\n.RS 4\n.nf\n{lines}\n.fi\n.RE\n"


def section(title: str) -> str:
    return f".SH {title.upper()}\n"


def subsection(title: str) -> str:
    return f".SS {escaped(title)}\n"


def _line(text: str) -> str:
    return rf"\&{text}" if text.startswith((".", "'")) else text
