"""The vocabulary of a soak: operations, plans, events, histories and findings."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from typing import Any

# Flags that are worth reading in a history.
_FLAGS = ("O_CREAT", "O_EXCL", "O_TRUNC", "O_APPEND", "O_DIRECT", "O_SYNC", "O_DSYNC")
_ACCESS = {os.O_RDONLY: "O_RDONLY", os.O_WRONLY: "O_WRONLY", os.O_RDWR: "O_RDWR"}


def errno_name(number: int | None) -> str:
    return "success" if number is None else errno.errorcode.get(number, str(number))


def flag_names(flags: int) -> str:
    names = [name for name in _FLAGS if flags & getattr(os, name) == getattr(os, name)]
    if "O_SYNC" in names:
        names.remove("O_DSYNC")
    return "|".join([_ACCESS[flags & os.O_ACCMODE], *names])


@dataclass(frozen=True)
class Operation:
    """Something that a user does: one system call, or one command.

    Attributes:
        kind: the method of soaking.user that does it.
        args: what it takes; paths are ``POOL/NAME``, below the mount point, with POOL ``a`` or
            ``b``.
        story: what it is a part of.
    """

    kind: str
    args: dict[str, Any] = field(default_factory=dict)
    story: str = ""

    def __str__(self) -> str:
        shown = {
            name: flag_names(value) if name == "flags" else value
            for name, value in self.args.items()
        }
        return f"{self.kind} {' '.join(f'{name}={value}' for name, value in shown.items())}".strip()


@dataclass(frozen=True)
class Fault:
    """A fault, *delay_s* after the one before it (or the beginning); it lasts for *seconds*."""

    kind: str
    delay_s: float
    seconds: float = 0.0

    def __str__(self) -> str:
        lasting = f" for {self.seconds:.1f} s" if self.seconds else ""
        return f"{self.kind}{lasting}, {self.delay_s:.1f} s later"


@dataclass(frozen=True)
class Script:
    """What one user does on one of the two mounts."""

    user: int
    mount: int
    operations: tuple[Operation, ...]


@dataclass(frozen=True)
class Plan:
    """An episode before it is played.

    Attributes:
        seconds: no user begins anything after this time.
        options: -o options of the first mount, beside those of every mount.
    """

    seed: int
    scripts: tuple[Script, ...]
    faults: tuple[Fault, ...]
    seconds: float
    options: tuple[str, ...] = ()

    @property
    def length(self) -> int:
        return sum(len(script.operations) for script in self.scripts) + len(self.faults)


@dataclass(frozen=True)
class Event:
    """An operation as it went: from *start* to *end* (monotonic clock), and what was answered."""

    user: int
    mount: int
    index: int
    operation: Operation
    start: float
    end: float
    errno: int | None = None
    value: Any = None

    def __str__(self) -> str:
        answer = errno_name(self.errno) if self.errno is not None else _short(self.value)
        return f"user {self.user}: {self.operation} -> {answer}"


@dataclass(frozen=True)
class Window:
    """A fault as it went; *end* is when all was to be well again."""

    kind: str
    start: float
    end: float
    mount: int = 0


@dataclass(frozen=True)
class Finding:
    """A promise that was broken.

    Attributes:
        check: which one, in a word.
        detail: what makes it the same finding again, beside check and story: an errno, a call.
    """

    check: str
    message: str
    story: str = ""
    detail: str = ""
    user: int | None = None
    index: int | None = None

    @property
    def signature(self) -> tuple[str, str, str]:
        return self.check, self.story, self.detail


@dataclass
class History:
    """All that happened in an episode, in the order of its ends.

    Attributes:
        exports: what the cluster holds at the end, by path.
        findings: what was noticed while it was played, and at its end.
    """

    events: list[Event] = field(default_factory=list)
    windows: list[Window] = field(default_factory=list)
    exports: dict[str, bytes | None] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def _short(value: Any) -> str:
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    text = str(value)
    return text if len(text) <= 200 else text[:200] + "..."
