"""The command line: which command, and for a mount its MountOptions."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rbdfs
from rbdfs.config.absolute_path import absolute
from rbdfs.config.ceph_settings import CephSettings
from rbdfs.config.grammar import GRAMMARS
from rbdfs.config.mount_options import MountOptions
from rbdfs.config.option_values import is_path
from rbdfs.config.option_words import apply_options, words_of
from rbdfs.config.parser import Help, Parser, address, client, level, seconds
from rbdfs.config.source import Source, resolve_source
from rbdfs.config.suggestions import did_you_mean
from rbdfs.errors import EXIT_USAGE, UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COMMANDS = ("mount", *GRAMMARS)


@dataclass(frozen=True, slots=True)
class Request:
    """What a command line asks for.

    Attributes:
        command: one of COMMANDS, or remount.
        json: whether the answer, and a failure, is told as JSON on stdout.
        operands: as they were given; none for a mount, whose options have them.
        values: of the command's own switches, by their names as argparse has them; the default of
            those that were not given, False for a flag.
        options: of a mount.
    """

    command: str
    json: bool = False
    operands: tuple[str, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    options: MountOptions | None = None

    @property
    def operand(self) -> str:
        """The one operand of a command that has one."""
        (operand,) = self.operands
        return operand


def parse(arguments: list[str]) -> Request:
    """Return what the command line asks for; raise UserError where it cannot mean anything."""
    # Many have it; a pool of this name has a mount point behind it.
    if arguments == ["help"]:
        arguments = ["--help"]
    word = _command(arguments)
    if word in (None, "mount"):
        parser = _mount_parser(word)
        parsed, words = _parsed(parser, arguments[word is not None :])
        if "remount" in (asked := words_of(parsed.options)):
            return _remount(parser, parsed, words, asked)
        options = _mount(parser, parsed, words, Path(), word)
        return Request("mount", parsed.json, options=options)
    assert word is not None
    parser = _command_parser(word)
    try:
        parsed, words = _parsed(parser, arguments[1:])
        grammar = GRAMMARS[word]
        operands = _few(words, parser, grammar.required, grammar.most)
    except UserError as exc:
        if not _has_switch_of_mount(arguments[1:], parser):
            raise
        hint = f"to mount a pool of the name {word}: rbdfs -- {word} MOUNTPOINT"
        raise UserError(f"{exc} ({hint})", EXIT_USAGE) from exc
    values = vars(parsed)
    return Request(word, values.pop("json"), tuple(operands), values)


def _has_switch_of_mount(arguments: list[str], parser: Parser) -> bool:
    """Tell whether *arguments* have a switch that a mount has, and the command of *parser* not."""
    ours = _switches(_mount_parser(None)) - _switches(parser)
    return any(word.partition("=")[0] in ours for word in arguments)


def _switches(parser: Parser) -> set[str]:
    return {string for action in parser._actions for string in action.option_strings}


def asks_for_json(arguments: list[str]) -> bool:
    """Tell whether failures are to be told as JSON, also of a command line without a meaning."""
    return "--json" in arguments[: _end_of_options(arguments)]


def hinted(error: UserError, arguments: list[str]) -> UserError:
    """Return *error* with the command that the first word may have been meant to be.

    It was taken for a pool.
    """
    word = arguments[0] if arguments else ""
    if not word or word in COMMANDS or word.startswith("-") or "did you mean" in str(error):
        return error
    hint = did_you_mean(word, COMMANDS, "rbdfs ")
    return UserError(f"{error}{hint}", error.exit_code, error.facts)


def _command(arguments: list[str]) -> str | None:
    """Return the command that the first word is, None where it names what is to be mounted."""
    if not arguments or arguments[0] not in COMMANDS:
        return None
    # What mount(8) runs for any pool: POOL MOUNTPOINT -o OPTIONS.
    of_mount = len(arguments) == 4 and arguments[2] == "-o" and not arguments[1].startswith("-")
    return None if of_mount else arguments[0]


def _parsed(parser: Parser, arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the options and the other words, wherever among them these stand; raise UserError."""
    # argparse itself takes options between two positional arguments for the end of the first.
    end = _end_of_options(arguments)
    parsed, others = parser.parse_known_args(arguments[:end])
    for word in others:
        if word.startswith("-") and word != "-":
            name = word.partition("=")[0]
            hint = did_you_mean(name, _switches(parser))
            raise UserError(f"unknown option {name}{hint}", EXIT_USAGE)
    return parsed, others + arguments[end + 1 :]


def _end_of_options(arguments: list[str]) -> int:
    return arguments.index("--") if "--" in arguments else len(arguments)


def _few(words: list[str], parser: Parser, names: Sequence[str], most: int | None) -> list[str]:
    """Return *words*: no fewer than *names*, no more than *most*; raise UserError otherwise."""
    if most is not None and len(words) > most:
        raise UserError(f"too many arguments: {' '.join(words[most:])}", EXIT_USAGE)
    if len(words) < len(names):
        parser.error(f"{' and '.join(names[len(words) :])} missing")
    return words


def _command_parser(word: str) -> Parser:
    """Return the parser of a command but mount."""
    parser = Parser(prog=f"rbdfs {word}", add_help=False, allow_abbrev=False)
    parser.add_argument("-h", "--help", action=Help, nargs=0, const=word, default=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    for switch in GRAMMARS[word].flags:
        parser.add_argument(switch, action="store_true")
    for switch, value in GRAMMARS[word].values.items():
        parser.add_argument(switch, type=value.read, default=value.default)
    return parser


def _mount_parser(word: str | None) -> Parser:
    """Return the parser of a mount; option_texts has what is to be said of its options."""
    parser = Parser(
        prog="rbdfs" if word is None else f"rbdfs {word}", add_help=False, allow_abbrev=False
    )
    parser.add_argument("-h", "--help", action=Help, nargs=0, const=word, default=argparse.SUPPRESS)
    parser.add_argument("--all-pools", action="store_true")
    parser.add_argument("-c", "--conf", type=Path)
    parser.add_argument("--id", "--user", "-n", "--name", type=client)
    parser.add_argument("-k", "--keyring", type=Path)
    parser.add_argument("-m", dest="mon_host")
    parser.add_argument("--cluster")
    parser.add_argument("-o", dest="options", action="append", default=[])
    parser.add_argument("-r", "--read-only", action="store_true")
    parser.add_argument("-f", "--foreground", action="store_true")
    parser.add_argument("-d", "--debug", action="store_true")
    parser.add_argument("--log-file", type=Path)
    parser.add_argument("--log-level", type=level)
    parser.add_argument("--connect-timeout", type=seconds)
    parser.add_argument("--metrics", type=address)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--version", action="version", version=f"rbdfs {rbdfs.__version__}")
    return parser


def parse_arguments(arguments: list[str], directory: Path | None = None) -> MountOptions:
    """Return what the command line of a mount, without the word, asks for; raise UserError.

    Paths become absolute, once and here, because a daemon leaves the working directory: that of
    this process, or *directory* where the command line was given in another one.
    """
    parser = _mount_parser(None)
    parsed, words = _parsed(parser, arguments)
    return _mount(parser, parsed, words, directory or Path(), None)


def _remount(
    parser: Parser, parsed: argparse.Namespace, words: list[str], asked: list[str]
) -> Request:
    """Return the request to change a mount that is there, as *asked* behind -o.

    It is what mount(8) runs for `mount -o remount,ro MOUNTPOINT`: no command that is typed.
    """
    for name, given in vars(parsed).items():
        if name not in ("options", "json") and given != parser.get_default(name):
            raise UserError("a remount takes its options behind -o alone", EXIT_USAGE)
    operands = _few(words, parser, ("SOURCE", "MOUNTPOINT"), 2)
    return Request("remount", parsed.json, tuple(operands), {"options": asked})


def _mount(
    parser: Parser,
    parsed: argparse.Namespace,
    words: list[str],
    directory: Path,
    word: str | None,
) -> MountOptions:
    """Return all that a mount is asked for."""
    options = _mount_options(parsed, directory)
    if options.source.pool is None:
        named, (*stands_for_it, mountpoint) = None, _few(words, parser, ("MOUNTPOINT",), 2)
        # fstab has to have a source. The first is what df(1) and mount(8) show of it.
        if stands_for_it not in ([], [str(Source())], ["none"]):
            raise UserError(f"all pools, and {stands_for_it[0]} too?", EXIT_USAGE)
    else:
        names = ("POOL (or --all-pools)", "MOUNTPOINT")
        if word is None and len(words) == 1 and "/" not in words[0]:
            raise UserError(
                f"MOUNTPOINT missing, and {words[0]!a} is no command (see rbdfs --help)", EXIT_USAGE
            )
        named, mountpoint = _few(words, parser, names, 2)
    source, ceph = resolve_source(named, options.ceph, directory)
    where = mountpoint and absolute(mountpoint, directory)
    ceph = ceph.with_absolute_paths(directory)
    return replace(options, source=source, mountpoint=where, ceph=ceph)


def _mount_options(parsed: argparse.Namespace, directory: Path) -> MountOptions:
    """Return what the options ask for, of whatever source."""
    pairs = []
    if parsed.mon_host:
        pairs.append(("mon_host", parsed.mon_host))
    if parsed.keyring:
        pairs.append(("keyring", str(parsed.keyring)))
    options = apply_options(MountOptions(), parsed.options)
    conf = parsed.conf or options.ceph.conf
    ceph = CephSettings(
        user=parsed.id or options.ceph.user,
        conf=conf and Path(absolute(conf, directory)),
        cluster=parsed.cluster or options.ceph.cluster,
        pairs=(*pairs, *options.ceph.pairs),
    )
    log_file = parsed.log_file or options.log_file
    metrics = parsed.metrics or options.metrics
    if metrics is not None and is_path(metrics):
        metrics = absolute(metrics, directory)
    return replace(
        options,
        source=Source() if parsed.all_pools else options.source,
        ceph=ceph,
        metrics=metrics,
        read_only=options.read_only or parsed.read_only,
        foreground=parsed.foreground,
        debug=options.debug or parsed.debug,
        log_level=parsed.log_level or options.log_level,
        log_file=log_file and Path(absolute(log_file, directory)),
        connect_timeout_s=parsed.connect_timeout or options.connect_timeout_s,
    )
