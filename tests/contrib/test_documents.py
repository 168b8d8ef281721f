"""The manual and README agree with what --help is made of, and with each other."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from documenting.command import CHECKOUT, WRITTEN, documents
from documenting.page import parse
from documenting.roff import Release
from markdown_it import MarkdownIt

from rbdfs.config.commands import COMMANDS
from rbdfs.config.option_texts import Option, options

if TYPE_CHECKING:
    from pathlib import Path

PAGES = sorted((CHECKOUT / "contrib/man").glob("*.[0-9]"))
README = (CHECKOUT / "README.md").read_text()
MARKDOWN = [
    CHECKOUT / "README.md",
    *sorted((CHECKOUT / "rbdfs").rglob("*.md")),
    *sorted((CHECKOUT / "contrib").rglob("*.md")),
]


def rendered(page: Path) -> str:
    """A page as man(1) shows it, which has nothing to complain of."""
    if shutil.which("man") is None:
        pytest.skip("man is not installed (contrib/setup installs it)")
    done = subprocess.run(
        ["man", "--warnings", "--local-file", "--pager=cat", page],
        env=os.environ | {"LC_ALL": "C.UTF-8", "MANWIDTH": "200", "MAN_KEEP_FORMATTING": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return " ".join(done.stdout.split())


def test_they_are_as_contrib_document_writes_them() -> None:
    """Whoever changes a text in rbdfs/config runs it."""
    for path, text in documents().items():
        assert path.read_text() == text, f"{path}: contrib/document writes it anew"


def test_every_page_is_written() -> None:
    assert [page.name for page in PAGES] == [
        "mount.fuse.rbdfs.8",
        "rbdfs-failures.7",
        "rbdfs-files.7",
        "rbdfs-service.7",
        "rbdfs.8",
    ]
    assert set(PAGES) <= documents().keys()
    installed = (CHECKOUT / "contrib/debian/rbdfs.manpages").read_text().split()
    assert {CHECKOUT / name for name in installed} == set(PAGES)


def test_the_program_and_its_options() -> None:
    text = rendered(CHECKOUT / "contrib/man/rbdfs.8")
    for name, command in COMMANDS.items():
        assert command.summary in text or command.summary.capitalize() in text
        for form in command.forms:
            assert f"rbdfs {'[mount]' if name == 'mount' else name} {form}" in text
        for paragraph in command.paragraphs:
            assert paragraph.replace("`", "") in text
    for option in options():
        assert ", ".join(option.forms) in text
        assert option.text.replace("`", "") in text


def test_the_file_system_and_its_options() -> None:
    text = rendered(CHECKOUT / "contrib/man/mount.fuse.rbdfs.8")
    for option in options():
        form = option.forms[-1].removeprefix("-o ")
        assert (f" {form} {option.text.replace('`', '')}" in text) == bool(option.word)


@pytest.mark.parametrize("written", WRITTEN)
def test_a_page_that_is_written_is_shown_whole(written: str) -> None:
    """Every word of the Markdown is in what man(1) shows, in its order."""
    source = (CHECKOUT / "contrib/man" / written).read_text()
    text = rendered(CHECKOUT / "contrib/man" / written.removesuffix(".md"))
    shown = iter(words(text))
    title, _, rest = source.partition("\n")
    rest = re.sub(r"^\|.*\n\| --- .*\n", "", rest, flags=re.MULTILINE)
    missing = [word for word in words(re.sub(r"\]\(\S+?\)", "", rest)) if word not in shown]
    assert missing == []
    assert title.partition(": ")[2] in text


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("Text\n", "begins with its title"),
        ("# rbdfs\n", "is no title"),
        ("# rbdfs(8): x\n\n1. one\n", "ordered_list_open"),
        ("# rbdfs(8): x\n\n**bold**\n", "strong_open"),
        ("# rbdfs(8): x\n\n![a](b)\n", "image"),
        ("# rbdfs(8): x\n\n- a\n  - b\n", "one paragraph"),
        ("# rbdfs(8): x\n\n| a | b | c |\n| --- | --- | --- |\n| 1 | 2 | 3 |\n", "two columns"),
        (f"# rbdfs(8): x\n\n| a | b |\n| --- | --- |\n| {'long ' * 20} | 2 |\n", "too long"),
    ],
)
def test_what_a_page_cannot_have(text: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        parse(text).roff(Release("1", "2026-01-01"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_mandoc_has_nothing_to_complain_of(page: Path) -> None:
    if shutil.which("mandoc") is None:
        pytest.skip("mandoc is not installed")
    done = subprocess.run(["mandoc", "-T", "lint", page], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 250


def test_options_of_readme_are_those_of_the_manual() -> None:
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


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda page: str(page.relative_to(CHECKOUT)))
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
