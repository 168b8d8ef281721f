"""Mount options: their values, defaults and the ``-o`` syntax."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rbdfs.errors import EXIT_USAGE, UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


@dataclass(frozen=True, slots=True)
class CephSettings:
    """How to reach the cluster, and as whom.

    Attributes:
        user: the client's id without ``client.``.
        conf: configuration file; None means Ceph's default places, where it may be missing.
        cluster: name of the cluster, which Ceph puts into its default paths.
        pairs: further settings, applied in this order after the file.
    """

    user: str = "admin"
    conf: Path | None = None
    cluster: str | None = None
    pairs: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class MountOptions:
    """Everything that one mount was asked for. Defaults are what an operator gets.

    Attributes:
        source: ``POOL[/NAMESPACE]``.
        uid, gid: owner of every file.
        umask: bits taken off 0600 for images, 0400 for snapshots, 0700 for directories; a
            umask that was given is taken off 0666, 0444 and 0777 instead.
        connect_timeout_s: how long reaching the cluster may take, in seconds.
    """

    source: str = ""
    mountpoint: str = ""
    ceph: CephSettings = field(default_factory=CephSettings)
    read_only: bool = False
    allow_other: bool = False
    nonempty: bool = False
    uid: int = field(default_factory=os.getuid)
    gid: int = field(default_factory=os.getgid)
    umask: int | None = None
    connect_timeout_s: float = 30.0
    foreground: bool = False
    debug: bool = False
    log_file: Path | None = None

    def permissions(self, base: int) -> int:
        """Return *base* (0o666, 0o444 or 0o777) as these options show it."""
        return base & ~(0o077 if self.umask is None else self.umask)


# Options of mount(8) and fstab that say nothing to a FUSE file system, or what it does anyway.
_IGNORED = frozenset(
    {"rw", "defaults", "nosuid", "nodev", "auto", "noauto", "user", "users", "nouser", "nofail"}
    | {"_netdev", "noatime", "nodiratime", "relatime", "async", "exec", "noexec", "suid", "dev"}
)


def _number(text: str, base: int = 10) -> int:
    if not text.isascii() or not text.isdigit():
        raise ValueError(text)
    number = int(text, base)
    if number >= 2**32 - 1:
        raise ValueError(text)
    return number


def _octal(text: str) -> int:
    number = _number(text, 8)
    if number > 0o777:
        raise ValueError(text)
    return number


def parse_seconds(text: str) -> float:
    """Return *text* as a positive, finite number of seconds; raise ValueError otherwise."""
    seconds = float(text)
    if not math.isfinite(seconds) or not 0 < seconds <= 86400:
        raise ValueError(text)
    return seconds


_FLAGS: dict[str, tuple[str, Any]] = {
    "ro": ("read_only", True),
    "allow_other": ("allow_other", True),
    "nonempty": ("nonempty", True),
}
_VALUES: dict[str, tuple[str, Callable[[str], Any]]] = {
    "uid": ("uid", _number),
    "gid": ("gid", _number),
    "umask": ("umask", _octal),
    "connect_timeout": ("connect_timeout_s", parse_seconds),
}
_CEPH: dict[str, tuple[str, Callable[[str], Any]]] = {
    "id": ("user", str),
    "conf": ("conf", Path),
    "cluster": ("cluster", str),
}


def split_options(text: str) -> list[str]:
    r"""Split ``a,b=c`` at its commas; ``\,`` is a comma and ``\\`` a backslash in a value."""
    parts, current, escaped = [], "", False
    for char in text:
        if escaped:
            current += char
            escaped = False
        elif char == "\\":
            escaped = True
        elif char == ",":
            parts.append(current)
            current = ""
        else:
            current += char
    parts.append(current + ("\\" if escaped else ""))
    return [part for part in parts if part]


def apply_options(options: MountOptions, texts: Iterable[str]) -> MountOptions:
    """Return *options* changed by the values of ``-o``, the last of a kind winning.

    ``KEY=VALUE`` of an unknown key is a setting of Ceph, which refuses those that it does not
    know when the cluster is reached. Raises UserError for everything else that is unknown.
    """
    changes: dict[str, Any] = {}
    ceph: dict[str, Any] = {}
    pairs = list(options.ceph.pairs)
    for part in (part for text in texts for part in split_options(text)):
        key, separator, value = part.partition("=")
        if separator and key in _VALUES:
            name, parse = _VALUES[key]
            try:
                changes[name] = parse(value)
            except ValueError:
                raise UserError(f"bad value in option: {part}", EXIT_USAGE) from None
        elif not separator and key in _FLAGS:
            name, setting = _FLAGS[key]
            changes[name] = setting
        elif not separator and key in _IGNORED or key.startswith("x-"):
            continue
        elif separator and key in _CEPH:
            name, parse = _CEPH[key]
            ceph[name] = parse(value)
        elif separator and key and value and key not in _FLAGS:
            pairs.append((key, value))
        else:
            raise UserError(f"unknown option: {part}", EXIT_USAGE)
    return replace(options, **changes, ceph=replace(options.ceph, **ceph, pairs=tuple(pairs)))
