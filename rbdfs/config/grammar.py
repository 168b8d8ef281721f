"""What may stand behind each word but mount: switches, and operands.

What they mean is told in commands.py, which a mount does not read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rbdfs.config.parser import seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True, slots=True)
class Value:
    """What stands behind a switch, as *read* makes it of the text, and what is for no switch."""

    read: Callable[[str], Any]
    default: Any = None


@dataclass(frozen=True, slots=True)
class Grammar:
    """The command line of one command.

    Attributes:
        operands: their names, in order: ``NAME``, ``[NAME]`` for one that may be missing, and at
            the end ``NAME...`` for one or more.
        flags: its switches without a value, besides --json and --help.
        values: its switches with one.
    """

    operands: tuple[str, ...] = ("MOUNTPOINT",)
    flags: tuple[str, ...] = ()
    values: Mapping[str, Value] = field(default_factory=dict)

    @property
    def required(self) -> list[str]:
        """The names of those that may not be missing."""
        return [name.removesuffix("...") for name in self.operands if not name.startswith("[")]

    @property
    def most(self) -> int | None:
        """How many operands there may be; None: any number."""
        return None if any(name.endswith("...") for name in self.operands) else len(self.operands)


GRAMMARS = {
    "debug": Grammar(values={"--output": Value(str)}),
    "map": Grammar(("FILE",), flags=("--draw",)),
    "mounts": Grammar(operands=()),
    "restart": Grammar(),
    "stat": Grammar(("FILE...",)),
    "status": Grammar(flags=("--prometheus",)),
    "top": Grammar(
        operands=("[MOUNTPOINT]",), flags=("--once",), values={"--interval": Value(seconds, 1.0)}
    ),
    "umount": Grammar(values={"--timeout": Value(seconds, 60.0)}),
}
