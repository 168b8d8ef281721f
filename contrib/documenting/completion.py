"""Completion for bash, zsh and fish: templates, filled with what there is to complete."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

from rbdfs.config.commands import COMMANDS, HELP, VERSION
from rbdfs.config.option_texts import GROUPS, Option, options

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_TEMPLATES = Path(__file__).parent / "templates"
# -o stands with each of its words in the table.
_SETTINGS = Option("mount options", switches=("-o",), value="OPTION", kind="setting")


def bash() -> str:
    """The script for /usr/share/bash-completion/completions."""
    switches = (
        f"        {name}) printf '%s\\n' {' '.join(_names(_switches(name)))} ;;"
        for name in COMMANDS
    )
    choices = (
        f"        {word}=*) printf '{word}=%s\\n' {' '.join(values)} ;;"
        for word, values in _choices().items()
        if values
    )
    return _filled(
        "rbdfs.bash",
        SWITCHES="\n".join(switches),
        CHOICES="\n".join(choices),
        SETTINGS=" ".join(_words()),
        COMMANDS=" ".join(COMMANDS),
        COMMAND_PATTERN=" | ".join(COMMANDS),
        MOUNTED="|".join(_mounted()),
        OF_FILES="|".join(_about("FILE")),
        CLUSTER_SWITCHES=" | ".join(_cluster()),
        VALUE_SWITCHES=" | ".join(_names(_with_a_value())),
        FILE_SWITCHES=" | ".join(_names(each for each in _with_a_value() if each.kind == "file")),
    )


def zsh() -> str:
    """The function for /usr/share/zsh/vendor-completions."""
    summaries = (
        f"            {_quoted(f'{name}:{each.summary}')}" for name, each in COMMANDS.items()
    )
    return _filled(
        "_rbdfs",
        SETTINGS=" \\\n".join(f"        {each}" for each in _zsh_settings()),
        COMMANDS="\n".join(_zsh_command(name) for name in COMMANDS),
        COMMAND_PATTERN="|".join(COMMANDS),
        SUMMARIES="\n".join(summaries),
        CLUSTER_SWITCHES=" ".join(_cluster()),
    )


def fish() -> str:
    """The script for /usr/share/fish/vendor_completions.d."""
    return _filled(
        "rbdfs.fish",
        SETTINGS=" ".join([*_words(), *_pairs()]),
        COMMANDS=" ".join(COMMANDS),
        MOUNTED=" ".join(_mounted()),
        OF_FILES=" ".join(_about("FILE")),
        CLUSTER_SWITCHES=" ".join(_cluster()),
        VALUE_SWITCHES=" ".join(_names(_with_a_value())),
        COMPLETE="\n".join(_fish_lines()),
    )


def _filled(name: str, **parts: str) -> str:
    text = (_TEMPLATES / name).read_text()
    for key, part in parts.items():
        assert f"@{key}@" in text, f"{name} has no place for {key}"
        text = text.replace(f"@{key}@", part)
    return text


def _switches(command: str) -> list[Option]:
    """The options of a command that begin with a hyphen."""
    own = [*COMMANDS[command].options, HELP]
    if command == "mount":
        own += [*(option for option in options() if option.switches), _SETTINGS, VERSION]
    return own


def _names(of: Iterable[Option]) -> list[str]:
    return [switch for option in of for switch in option.switches]


def _with_a_value() -> list[Option]:
    found = itertools.chain.from_iterable(_switches(name) for name in COMMANDS)
    return [option for option in found if option.value]


def _cluster() -> list[str]:
    """The switches that rados(8) takes as well, each with a value."""
    timeout = {"--connect-timeout"}
    return [switch for switch in _names(GROUPS["The cluster"]) if switch not in timeout]


def _mounted() -> list[str]:
    """The commands that are about a mount that is there."""
    return _about("MOUNTPOINT")


def _about(operand: str) -> list[str]:
    """The commands but mount that take *operand*."""
    return [name for name, each in COMMANDS.items() if name != "mount" and operand in each.forms[0]]


def _choices() -> dict[str, tuple[str, ...]]:
    """What may stand behind -o, and the values of it that are known."""
    found: dict[str, tuple[str, ...]] = {}
    for option in options():
        if option.word and option.word != "KEY":
            found[option.word] = (*found.get(option.word, ()), *option.choices)
    return found


def _words() -> list[str]:
    """What may stand behind -o; with = where a value has to follow."""
    bare = {option.word for option in options() if not option.takes}
    return [word if word in bare else f"{word}=" for word in _choices()]


def _pairs() -> Iterator[str]:
    for word, values in _choices().items():
        yield from (f"{word}={value}" for value in values)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _described(option: Option) -> str:
    """What zsh takes for a description."""
    return "".join(f"\\{char}" if char in "[]:" else char for char in option.gist)


def _zsh_settings() -> Iterator[str]:
    bare = {option.word for option in options() if not option.takes}
    actions = {"pool": "_rbdfs_pools", "file": "_files", "": " "}
    known = _choices()
    for word, options_of in itertools.groupby(options(), lambda option: option.word):
        option = next(options_of)
        if word not in known:
            continue
        values = known[word]
        action = f"({' '.join(values)})" if values else actions[option.kind]
        value = "" if word in bare and not values else f":value:{action}"
        optional = ":" if word in bare and values else ""
        yield _quoted(f"{word}[{_described(option)}]{optional}{value}")


def _zsh_command(name: str) -> str:
    lines = [_zsh_switch(option) for option in _switches(name)]
    if name == "mount":
        lines += ["'1:source:_rbdfs_sources'", "'2:mount point:_files'"]
    elif name in _mounted():
        lines += ["'1:mount point:_rbdfs_mounts'"]
    elif name in _about("FILE..."):
        lines += ["'*:file:_files'"]
    elif name in _about("FILE"):
        lines += ["'1:file:_files'"]
    text = " \\\n".join(f"                {line}" for line in lines)
    return f"        {name})\n            _arguments -s -S \\\n{text}\n            ;;"


def _zsh_switch(option: Option) -> str:
    actions = {"file": "_files", "setting": "_rbdfs_settings", "": " "}
    value = f":{option.value}:{actions[option.kind]}" if option.value else ""
    text = _quoted(f"[{_described(option)}]{value}")
    if len(option.switches) == 1:
        repeated = "*" if option.kind == "setting" else ""
        return f"'{repeated}{option.switches[0]}'{text}"
    return f"'({' '.join(option.switches)})'{{{','.join(option.switches)}}}{text}"


def _fish_lines() -> Iterator[str]:
    for name, command in COMMANDS.items():
        summary = _fish_quoted(command.summary)
        yield f"complete -c rbdfs -n '__rbdfs_is \"\"' -a {name} -d {summary}"
    for name in COMMANDS:
        condition = f"'__rbdfs_is {name}'" if name != "mount" else "'__rbdfs_is \"\" mount'"
        for option in _switches(name):
            forms = " ".join(
                f"-l {switch[2:]}" if switch.startswith("--") else f"-s {switch[1:]}"
                for switch in option.switches
            )
            value = {"file": " -r -F", "setting": " -x -a '(__rbdfs_settings)'"}.get(
                option.kind, " -x" if option.value else ""
            )
            description = _fish_quoted(option.gist)
            yield f"complete -c rbdfs -n {condition} {forms}{value} -d {description}"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
