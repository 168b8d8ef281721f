"""What is said of commands and options is what the command line takes."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from rbdfs.config import command_line, option_words
from rbdfs.config.command_line import parse, parse_arguments
from rbdfs.config.commands import COMMANDS
from rbdfs.config.grammar import GRAMMARS, Grammar, Value
from rbdfs.config.help_text import help_text
from rbdfs.config.mount_options import MountOptions
from rbdfs.config.option_texts import Option, options
from rbdfs.config.option_values import OneOf
from rbdfs.config.option_words import apply_options
from rbdfs.errors import UserError

# One that each takes which has no choices.
A_VALUE = {"FILE": "word", "ID": "word", "NAME": "word", "HOST": "word", "POOL": "word"}
A_VALUE |= {
    "USER": "1",
    "GROUP": "1",
    "MASK": "1",
    "SIZE": "4M",
    "LEVEL": "warning",
    "SECONDS": "1",
    "VALUE": "word",
    "ADDRESS": "127.0.0.1:9283",
}
# The opposite of ro, and the default.
UNTOLD = {"rw"}
CEPH = {"KEY", "keyring", "mon_host"}


def settings() -> list[Option]:
    """What may stand behind -o."""
    return [option for option in options() if option.word]


def values(option: Option) -> list[str]:
    found = option.choices or ((A_VALUE[option.value],) if option.value else ())
    return [f"{option.word}={value}" for value in found] or [option.word]


def test_every_option_is_told_and_no_other() -> None:
    told = {option.word for option in settings()}
    assert told - {"KEY"} == option_words.names() - UNTOLD
    switches = {switch for option in options() for switch in option.switches}
    switches |= {switch for option in COMMANDS["mount"].options for switch in option.switches}
    parser = command_line._mount_parser("mount")
    taken = {string for action in parser._actions for string in action.option_strings}
    # -o stands with each of its words.
    assert switches == taken - {"-o", "-h", "--help", "--version"}


@pytest.mark.parametrize("word", sorted({*COMMANDS, *command_line.COMMANDS} - {"mount"}))
def test_a_command_takes_what_is_told_of_it_and_has_a_module(word: str) -> None:
    told = {switch for option in COMMANDS[word].options for switch in option.switches}
    parser = command_line._command_parser(word)
    taken = {string for action in parser._actions for string in action.option_strings}
    assert told == taken - {"-h", "--help"}
    assert callable(importlib.import_module(f"rbdfs.commands.{word}").run)
    for form in COMMANDS[word].forms:
        assert form.endswith(" ".join(GRAMMARS[word].operands)), form


def test_operands_of_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    grammar = Grammar(("FILE", "[OTHER]"), ("--one",), {"--two": Value(int, 2)})
    many = Grammar(("FILE...",))
    monkeypatch.setattr(command_line, "GRAMMARS", GRAMMARS | {"stat": grammar, "map": many})
    monkeypatch.setattr(command_line, "COMMANDS", (*command_line.COMMANDS, "stat", "map"))
    request = parse(["stat", "a", "--two=3", "--", "--one"])
    assert request.operands == ("a", "--one")
    assert request.values == {"one": False, "two": 3}
    assert parse(["stat", "--one", "a"]).values == {"one": True, "two": 2}
    assert parse(["map", "c", "a", "b"]).operands == ("c", "a", "b")
    for arguments, words in (
        (["stat"], "FILE missing"),
        (["map"], "FILE missing"),
        (["stat", "a", "b", "c"], "too many arguments: c$"),
        (["stat", "a", "--two=x"], "--two"),
    ):
        with pytest.raises(UserError, match=words):
            parse(arguments)


def test_every_switch_has_a_form_for_fstab() -> None:
    """But those that make no sense there: mount(8) waits for what it runs, and reads no JSON."""
    told = {option.switches[-1] for option in options() if option.switches and not option.word}
    assert told == {"--foreground"}
    assert [option.switches[-1] for option in COMMANDS["mount"].options] == ["--json"]


@pytest.mark.parametrize("option", settings(), ids=lambda option: option.forms[-1])
def test_its_values_are_taken_as_told(option: Option) -> None:
    """A name that nothing knows would go to Ceph as a setting, or be refused."""
    for text in values(option):
        applied = apply_options(MountOptions(), [text])
        assert (applied.ceph.pairs != ()) == (option.word in CEPH), f"{text} would go to Ceph"


def test_the_choices_are_those_there_are() -> None:
    told = {option.word: set(option.choices) for option in settings() if option.choices}
    taken = {
        name: parse.values.keys()
        for name, (_, parse) in option_words._VALUES.items()
        if isinstance(parse, OneOf)
    }
    assert told == {**taken, "manage": {"snapshots"}}


@pytest.mark.parametrize("option", settings(), ids=lambda option: option.forms[-1])
def test_its_default_is_as_told(option: Option) -> None:
    default = option.default.strip("`")
    if default == "off":
        for text in values(option):
            assert apply_options(MountOptions(), [text]) != MountOptions()
    elif default in option.choices or re.fullmatch("[0-9]+", default):
        applied = apply_options(MountOptions(), [f"{option.word}={default}"])
        assert applied == MountOptions() or applied.dictated == (option.word,)
        assert applied.umask == MountOptions().umask


@pytest.mark.parametrize(
    "option", [o for o in options() if o.switches], ids=lambda o: o.switches[-1]
)
def test_its_switches_are_taken_as_told(option: Option) -> None:
    for switch in option.switches:
        arguments = [switch, *([A_VALUE[option.value]] if option.value else []), "/mnt"]
        source = [] if switch == "--all-pools" else ["rbd"]
        # Also between the source and the mount point.
        changed = parse_arguments([*source, *arguments], Path("/srv"))
        assert changed == parse_arguments([*arguments[:-1], *source, "--", "/mnt"], Path("/srv"))
        assert changed != parse_arguments(["rbd", "/mnt"], Path("/srv"))


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_tells_all_of_a_command(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    text = help_text(command)
    assert COMMANDS[command].summary in " ".join(text.split()).lower()
    own = [*COMMANDS[command].options, *(options() if command == "mount" else ())]
    for option in own:
        assert ", ".join(option.forms) in text
        assert option.text.replace("`", "") in " ".join(text.split())
    forms = "".join(COMMANDS[command].forms)
    assert all(len(line) <= 60 for line in text.splitlines() if line[-20:] not in forms)


def test_a_command_with_its_mount_point() -> None:
    request = parse(["status", "--json", "/mnt"])
    assert (request.command, request.operand, request.json) == ("status", "/mnt", True)
    for arguments in (["mount", "rbd", "/mnt"], ["rbd", "/mnt"], ["--", "mount", "/mnt"]):
        request = parse(arguments)
        assert request.command == "mount"
        assert request.options is not None
        assert request.options.mountpoint == "/mnt"
