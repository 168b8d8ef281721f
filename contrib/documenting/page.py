"""A page of the manual that is written by hand, as Markdown of a restricted kind.

It has one heading of the first level, `# NAME(SECTION): what it is about`, headings of the second
and third, paragraphs, lists with bullets, tables of two columns and code blocks; in a line, code
between backquotes and links. What else Markdown knows raises ValueError.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markdown_it import MarkdownIt

from documenting.roff import bullet, example, head, item, marked, paragraph, section, subsection

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from markdown_it.token import Token

    from documenting.roff import Release

_TITLE = re.compile(r"(?P<name>[\w.-]+)\((?P<section>\d)\): (?P<summary>.+)")
_REFERENCE = re.compile(r"([\w.-]+)(\(\d\))")
# As it is shown: beyond it, the label of a table's row is no label.
_LONGEST_LABEL = 76
_ITEM = ["list_item_open", "paragraph_open"]


@dataclass(frozen=True, slots=True)
class Page:
    """One page.

    Attributes:
        name: as man(1) is asked for it.
        section: of the manual.
        summary: what stands beside its name in lists.
        tokens: what follows the title.
    """

    name: str
    section: int
    summary: str
    tokens: list[Token]

    @property
    def file_name(self) -> str:
        return f"{self.name}.{self.section}"

    def roff(self, release: Release) -> str:
        return "".join(
            [*head(self.name, self.section, self.summary, release), *_blocks(self.tokens)]
        )


def parse(text: str) -> Page:
    """Read the Markdown of one page.

    Raises:
        ValueError: it has no title as above.
    """
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    if not tokens or tokens[0].tag != "h1":
        raise ValueError("a page begins with its title")
    found = _TITLE.fullmatch(_inline(tokens[1]))
    if found is None:
        raise ValueError(f"{tokens[1].content!r} is no title as NAME(SECTION): SUMMARY")
    return Page(found["name"], int(found["section"]), found["summary"], tokens[3:])


def _blocks(tokens: list[Token]) -> Iterator[str]:
    """The tokens as roff; what stands before the first heading is the description."""
    if tokens and tokens[0].type != "heading_open":
        yield section("description")
    after_heading = True
    position = 0
    while position < len(tokens):
        token = tokens[position]
        end = _end(tokens, position)
        inner = tokens[position + 1 : end]
        match token.type:
            case "heading_open":
                title = _inline(inner[0])
                yield section(title) if token.tag == "h2" else subsection(title)
            case "paragraph_open":
                text = paragraph(_inline(inner[0]))
                yield text.removeprefix(".PP\n") if after_heading else text
            case "fence" | "code_block":
                text = example(token.content)
                yield text.removeprefix(".PP\n") if after_heading else text
            case "bullet_list_open":
                yield from map(bullet, _items(inner))
            case "table_open":
                yield from _rows(inner)
            case _:
                raise ValueError(f"{token.type} is nothing for a page: line {token.map}")
        after_heading = token.type == "heading_open"
        position = end + 1


def _end(tokens: list[Token], position: int) -> int:
    """Where the block ends that begins at *position*."""
    level = tokens[position].level
    if tokens[position].nesting == 0:
        return position
    return next(
        number
        for number in range(position + 1, len(tokens))
        if tokens[number].level == level and tokens[number].nesting == -1
    )


def _texts(tokens: Iterable[Token]) -> list[str]:
    return [_inline(token) for token in tokens if token.type == "inline"]


def _items(tokens: list[Token]) -> list[str]:
    """The texts of a list, each of which is one paragraph."""
    texts = _texts(tokens)
    if [token.type for token in tokens if token.nesting == 1] != _ITEM * len(texts):
        raise ValueError(f"an item of a list is one paragraph: {texts[0]!r}")
    return texts


def _rows(tokens: list[Token]) -> Iterator[str]:
    texts = _texts(tokens)
    columns = sum(token.type == "th_open" for token in tokens)
    if columns != 2:
        raise ValueError(f"a table has two columns: {texts[:columns]}")
    # Without its header, which is for those who see a table.
    for label, text in zip(texts[2::2], texts[3::2], strict=True):
        if len(label.replace("`", "")) > _LONGEST_LABEL:
            raise ValueError(f"too long for the first column: {label}")
        yield item(marked(label), text)


def _inline(token: Token) -> str:
    """The text of a paragraph, with backquotes around what is typed."""
    return "".join(_parts(token.children or ()))


def _parts(children: Iterable[Token]) -> Iterator[str]:
    linked = False
    for child in children:
        match child.type:
            case "text":
                yield _REFERENCE.sub(r"`\1`\2", child.content) if linked else child.content
            case "code_inline":
                yield f"`{child.content}`"
            case "softbreak":
                yield " "
            case "link_open" | "link_close":
                linked = child.type == "link_open"
            case _:
                raise ValueError(f"{child.type} is nothing for a page: {child.content!r}")
