"""What `--help` prints, made of the tables of commands and options."""

from __future__ import annotations

import os
import textwrap
from typing import TYPE_CHECKING

from rbdfs.config.commands import COMMANDS, DESCRIPTION, EXIT_CODES, HELP, VERSION
from rbdfs.config.option_texts import ESCAPES, GROUPS, IGNORED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rbdfs.config.option_texts import Option

_WIDEST, _NARROWEST = 100, 40


def help_text(command: str | None) -> str:
    """Return the help of *command*, or of all there is."""
    lines = _overview() if command is None else _of(command)
    return "\n".join(lines) + "\n"


def _overview() -> Iterator[str]:
    others = ((name, form) for name in COMMANDS for form in COMMANDS[name].forms if name != "mount")
    yield from _usage(
        [
            *(f"rbdfs [mount] {form}" for form in COMMANDS["mount"].forms),
            *(f"rbdfs {name} {form}" for name, form in others),
        ]
    )
    yield from ("", *_wrapped(DESCRIPTION), "", "Commands:")
    for name, command in COMMANDS.items():
        yield f"  {name:<10}{command.summary}"
    yield from ("", "Options:")
    yield from _options((HELP, VERSION))
    yield from ("", *_wrapped("`rbdfs COMMAND --help` tells more, as does rbdfs(8)."))
    yield from ("", *_exit_codes())


def _of(name: str) -> Iterator[str]:
    command = COMMANDS[name]
    optional = f"[{name}]" if name == "mount" else name
    yield from _usage(f"rbdfs {optional} {form}" for form in command.forms)
    yield from ("", *_wrapped(f"{command.summary[0].upper()}{command.summary[1:]}."))
    for paragraph in command.paragraphs:
        yield from ("", *_wrapped(paragraph))
    yield from ("", "Options:")
    yield from _options((*command.options, HELP))
    if name == "mount":
        for group, options in GROUPS.items():
            yield from ("", f"{group}:")
            yield from _options(options)
        yield from ("", *_wrapped(f"{IGNORED} {ESCAPES}"))
    yield from ("", *_exit_codes())


def _usage(forms: Iterable[str]) -> Iterator[str]:
    for number, form in enumerate(forms):
        yield f"{'       ' if number else 'Usage: '}{form}"


def _options(options: Iterable[Option]) -> Iterator[str]:
    for option in options:
        default = f" (default: {option.default})" if option.default else ""
        yield f"  {', '.join(option.forms)}"
        yield from _wrapped(option.text + default, "        ")


def _exit_codes() -> Iterator[str]:
    yield "Exit codes:"
    for code, text in EXIT_CODES.items():
        yield from _wrapped(text, f"  {code}  ", "     ")


def _wrapped(text: str, first: str = "", following: str | None = None) -> list[str]:
    """Return the lines of *text*, without its backquotes, as wide as the terminal."""
    return textwrap.wrap(
        text.replace("`", ""),
        _width(),
        initial_indent=first,
        subsequent_indent=first if following is None else following,
        break_on_hyphens=False,
    )


def _width() -> int:
    try:
        columns = int(os.environ.get("COLUMNS") or os.get_terminal_size().columns)
    except (OSError, ValueError):
        columns = 80
    return min(max(columns - 2, _NARROWEST), _WIDEST)
