"""README: what it says of options and files is so, and it is short."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from rbdfs.config.option_texts import Option, options

CHECKOUT = Path(__file__).resolve().parents[2]
README = (CHECKOUT / "README.md").read_text()
PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "rbdfs").rglob("*.md"))]
PAGES += sorted((CHECKOUT / "contrib").rglob("*.md"))


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 250


def test_its_options_are_those_of_the_manual() -> None:
    table = README.partition("| option | default | why one sets it |\n| --- | --- | --- |\n")[2]
    rows = re.findall(r"^\| `(.*?)` \| (.*?) \| .* \|$", table.partition("\n\n")[0], re.MULTILINE)
    defaults = {form: option.default for option in options() for form in forms(option)}
    assert len(rows) > 5
    for form, default in rows:
        assert defaults[form.replace("\\|", "|")] == default


def forms(option: Option) -> list[str]:
    """Every way to say it alone."""
    value = f" {option.takes}" if option.takes else ""
    return [f"{switch}{value}" for switch in option.switches] + list(option.forms[-1:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_links_lead_to_what_is_there(page: Path) -> None:
    tokens = MarkdownIt("commonmark").enable("table").parse(page.read_text())
    links = [
        str(child.attrs.get("href") or child.attrs.get("src"))
        for token in tokens
        for child in token.children or ()
        if child.type in ("link_open", "image")
    ]
    for link in links:
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), link


def anchors(markdown: str) -> set[str]:
    """What a link may name behind #: headings, as the usual renderers make them."""
    headings = re.findall(r"^#+ (.*)$", markdown, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
