"""rbdfs(8) as Markdown, for those who read the checkout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from documenting.manual import ENVIRONMENT, FILES, PATHS
from rbdfs.config.commands import COMMANDS, DESCRIPTION, EXIT_CODES, HELP, SUMMARY, VERSION
from rbdfs.config.option_texts import ESCAPES, GROUPS, IGNORED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rbdfs.config.option_texts import Option

_SEE_ALSO = (
    "[rbdfs-files(7)](rbdfs-files.7.md), [rbdfs-failures(7)](rbdfs-failures.7.md), "
    "[rbdfs-service(7)](rbdfs-service.7.md)"
)


def rbdfs() -> str:
    """The page that rbdfs(8) is."""
    blocks = [
        "<!-- Made by contrib/document: what is changed here is lost. -->",
        f"# rbdfs(8): {SUMMARY}",
        DESCRIPTION,
        table(("source", "path below the mount point"), PATHS.items()),
        "## Commands",
        *_commands(),
        "## Options",
        "Those of `rbdfs mount`; `-o` takes several, with commas between them.",
        _options((HELP, VERSION)),
        *(part for title, group in GROUPS.items() for part in (f"### {title}", _options(group))),
        f"{IGNORED} {ESCAPES}",
        "## Exit status",
        table(("code", "meaning"), ((f"`{code}`", text) for code, text in EXIT_CODES.items())),
        "## Environment",
        table(("variable", "meaning"), ENVIRONMENT.items()),
        "## Files",
        table(("file", "what it is"), FILES.items()),
        "## See also",
        _SEE_ALSO,
    ]
    return "\n\n".join(blocks) + "\n"


def table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table; a bar in a cell is one."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in row)} |" for row in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _commands() -> Iterator[str]:
    for name, command in COMMANDS.items():
        optional = f"[{name}]" if name == "mount" else name
        yield f"### rbdfs {name}"
        yield "\n".join(("```", *(f"rbdfs {optional} {each}" for each in command.forms), "```"))
        yield f"{command.summary[0].upper()}{command.summary[1:]}."
        yield from command.paragraphs
        if command.options:
            yield _options(command.options)


def _options(options: Iterable[Option]) -> str:
    rows = ((", ".join(f"`{form}`" for form in o.forms), o.default, o.text) for o in options)
    return table(("option", "default", "meaning, and why"), rows)
