"""Mount options: their values, defaults and the ``-o`` syntax."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rbdfs.config import option_values
from rbdfs.config.ceph_settings import CephSettings
from rbdfs.config.source import Source
from rbdfs.config.suggestions import did_you_mean
from rbdfs.errors import EXIT_USAGE, UserError
from rbdfs.model.record import known_fields

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


# What each cache mode tells librbd, after everything else, as QEMU does. An acknowledged write
# is on the OSDs with none and writethrough, and may be in memory with the others.
_CACHE_SETTINGS: dict[str, tuple[tuple[str, str], ...]] = {
    "none": (("rbd_cache", "false"),),
    "writethrough": (("rbd_cache", "true"), ("rbd_cache_policy", "writethrough")),
    "writeback": (("rbd_cache", "true"), ("rbd_cache_policy", "writeback")),
    "unsafe": (
        ("rbd_cache", "true"),
        ("rbd_cache_policy", "writeback"),
        ("rbd_cache_writethrough_until_flush", "false"),
    ),
}


_OWNERSHIP = ("uid", "gid", "umask")


@dataclass(frozen=True, slots=True)
class MountOptions:
    """Everything that one mount was asked for. Defaults are what an operator gets.

    Attributes:
        source: what is mounted.
        mountpoint: absolute path.
        uid, gid: owner of every file, unless its image says otherwise.
        umask: bits taken off 0666 for images, 0444 for snapshots, 0777 for directories.
        dmask: bits taken off 0777 for directories alone; None: umask.
        dictated: which of uid, gid and umask were asked for, and hold whatever the images say.
        snapshots: visible, hidden (found by name, not listed), off, or all (any by its id).
        partitions: whether partitions are files too.
        sector_size: of MBR partition tables, in bytes: 512 or 4096.
        lock: exclusive (one writing client, which keeps the image), transient (as exclusive, but
            others that want to write wait), or auto (cooperating writers).
        cache: librbd's cache: none, writethrough, writeback or unsafe.
        direct_io: never use the kernel's page cache.
        trim: whether discards reach the cluster.
        data_path: native or python; None means native where the extension is there.
        quiet: whether a change of mode or owner that cannot be kept succeeds all the same.
        manage: whether images can be made, removed, renamed and moved to other pools.
        remove_snapshots: whether snapshots can be removed, which cannot be undone.
        data_pool, object_size: for images that are made; None means the cluster's default.
        connect_timeout_s: how long reaching the cluster may take, in seconds.
        timeout_s: how long a request may take, in seconds; None means that it waits for ever.
        abort_on_full: whether what a full pool has no room for fails, instead of waiting.
        debug: whether each request is logged, as with the log_level debug.
        log_level: the least that is logged: debug, info, warning or error.
    """

    source: Source = Source("rbd")
    mountpoint: str = ""
    ceph: CephSettings = field(default_factory=CephSettings)
    read_only: bool = False
    allow_other: bool = False
    nonempty: bool = False
    uid: int = field(default_factory=os.getuid)
    gid: int = field(default_factory=os.getgid)
    umask: int = 0o077
    dmask: int | None = None
    dictated: tuple[str, ...] = ()
    snapshots: str = "visible"
    partitions: bool = False
    sector_size: int = 512
    lock: str = "exclusive"
    cache: str = "none"
    direct_io: bool = False
    trim: bool = True
    quiet: bool = False
    manage: bool = False
    remove_snapshots: bool = False
    data_path: str | None = None
    data_pool: str | None = None
    object_size: int | None = None
    connect_timeout_s: float = 30.0
    timeout_s: float | None = None
    abort_on_full: bool = False
    foreground: bool = False
    debug: bool = False
    log_level: str = "info"
    log_file: Path | None = None

    def record(self) -> dict[str, Any]:
        """Return the options fit for JSON, for from_record()."""
        log_file = None if self.log_file is None else str(self.log_file)
        return asdict(self) | {"ceph": self.ceph.record(), "log_file": log_file}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> MountOptions:
        """Return what record() has written, in this version or another one."""
        known = known_fields(cls, record)
        log_file = known.get("log_file")
        # Before it was told which were asked for, all of them held.
        dictated = known.get("dictated", _OWNERSHIP)
        return cls(
            **known
            | {
                "source": Source.from_record(record["source"]),
                "ceph": CephSettings.from_record(record["ceph"]),
                "log_file": None if log_file is None else Path(log_file),
                "dictated": tuple(dictated),
            }
        )

    @property
    def level(self) -> str:
        """The least that is logged, as log_level."""
        return "debug" if self.debug else self.log_level

    @property
    def exclusive(self) -> bool:
        """Whether a writing client keeps the image to itself."""
        return self.lock != "auto"

    @property
    def volatile(self) -> bool:
        """Whether librbd may keep acknowledged writes in memory, as far as the options say."""
        return self.cache in ("writeback", "unsafe")

    @property
    def ceph_settings(self) -> CephSettings:
        """How to reach the cluster, with what the mount itself dictates as the last word."""
        pairs = [*self.ceph.pairs, *_CACHE_SETTINGS[self.cache]]
        if self.timeout_s is not None:
            # librados answers with ETIMEDOUT then, and the image has failed: see Image.check(). It
            # takes whole seconds alone, and 0 for none at all.
            pairs.append(("rados_osd_op_timeout", f"{math.ceil(self.timeout_s)}"))
        return replace(self.ceph, pairs=tuple(pairs), full_try=self.abort_on_full)


# Options of mount(8) and fstab that say nothing to a FUSE file system, or what it does anyway.
_IGNORED = frozenset(
    {"defaults", "nosuid", "nodev", "auto", "noauto", "user", "users", "nouser", "nofail"}
    | {"_netdev", "noatime", "nodiratime", "relatime", "async", "exec", "noexec", "suid", "dev"}
)


# A word that stands by itself, or a whole KEY=VALUE.
_FLAGS: dict[str, dict[str, Any]] = {
    "ro": {"read_only": True},
    "rw": {"read_only": False},
    "allow_other": {"allow_other": True},
    "nonempty": {"nonempty": True},
    "partitions": {"partitions": True},
    "direct_io": {"direct_io": True},
    "notrim": {"trim": False},
    "quiet": {"quiet": True},
    "manage": {"manage": True, "remove_snapshots": False},
    "manage=snapshots": {"manage": True, "remove_snapshots": True},
    "abort_on_full": {"abort_on_full": True},
}
_VALUES: dict[str, tuple[str, Callable[[str], Any]]] = {
    "uid": ("uid", option_values.number),
    "gid": ("gid", option_values.number),
    "umask": ("umask", option_values.octal),
    "dmask": ("dmask", option_values.octal),
    "snapshots": ("snapshots", option_values.OneOf("visible", "hidden", "off", "all")),
    "datapath": ("data_path", option_values.OneOf("native", "python")),
    "sector_size": ("sector_size", option_values.OneOf(512, 4096)),
    "lock": ("lock", option_values.OneOf("exclusive", "transient", "auto")),
    "cache": ("cache", option_values.OneOf(*_CACHE_SETTINGS)),
    "data_pool": ("data_pool", option_values.word),
    "object_size": ("object_size", option_values.object_size),
    "timeout": ("timeout_s", option_values.parse_seconds),
    "log_level": ("log_level", option_values.log_level),
    "connect_timeout": ("connect_timeout_s", option_values.parse_seconds),
}
_CEPH: dict[str, tuple[str, Callable[[str], Any]]] = {
    "id": ("user", option_values.word),
    "conf": ("conf", Path),
    "cluster": ("cluster", option_values.word),
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


def names() -> set[str]:
    """Return the words that an option of ours begins with."""
    return {name.partition("=")[0] for name in (*_FLAGS, *_VALUES, *_CEPH)}


def _bad_value(part: str) -> UserError:
    # Where nothing goes wrong nobody needs it.
    from rbdfs.config.option_texts import options

    key, _, value = part.partition("=")
    choices = [choice for option in options() if option.word == key for choice in option.choices]
    return UserError(
        f"bad value in option: {part}{did_you_mean(value, choices, f'{key}=')}", EXIT_USAGE
    )


def _unknown(part: str) -> UserError:
    key, separator, _ = part.partition("=")
    if separator and key in _FLAGS:
        return _bad_value(part)
    if key in names():
        return UserError(f"option {key} needs a value: {part}", EXIT_USAGE)
    return UserError(f"unknown option {part}{did_you_mean(key, names())}", EXIT_USAGE)


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
                raise _bad_value(part) from None
        elif part in _FLAGS:
            changes |= _FLAGS[part]
        elif not separator and key in _IGNORED or key.startswith("x-"):
            continue
        elif separator and value and key in _CEPH:
            name, parse = _CEPH[key]
            ceph[name] = parse(value)
        elif separator and key and value and key not in _FLAGS:
            pairs.append((key, value))
        else:
            raise _unknown(part)
    dictated = (name for name in _OWNERSHIP if name in changes or name in options.dictated)
    changes["dictated"] = tuple(dictated)
    return replace(options, **changes, ceph=replace(options.ceph, **ceph, pairs=tuple(pairs)))
