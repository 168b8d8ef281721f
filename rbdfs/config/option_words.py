"""What may stand behind ``-o``: words of ours, of mount(8), and settings of Ceph."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rbdfs.config import option_values
from rbdfs.config.absolute_path import absolute
from rbdfs.config.mount_options import CACHE_SETTINGS, OWNERSHIP
from rbdfs.config.source import Source
from rbdfs.config.suggestions import did_you_mean
from rbdfs.errors import EXIT_USAGE, UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rbdfs.config.mount_options import MountOptions
    from rbdfs.config.option_texts import Option

# Words of mount(8) and fstab that say nothing here, or what is so anyway. mount.fuse(8) adds dev
# and suid where they are not denied; every mount is nodev and nosuid, and no file could use either.
_IGNORED = frozenset(
    {"defaults", "nosuid", "nodev", "suid", "dev", "auto", "noauto", "nofail", "_netdev"}
    | {"user", "users", "nouser", "owner", "group", "silent", "loud", "nomand", "noiversion"}
)
_IGNORED_BEGINNINGS = ("x-", "X-", "comment=", "user=")
# Those that the kernel keeps, each with what it sets, or takes back with a minus.
_FLAGS_OF_MOUNT = {
    "noexec": "noexec",
    "exec": "-noexec",
    "noatime": "noatime",
    "atime": "-noatime",
    "nodiratime": "nodiratime",
    "diratime": "-nodiratime",
    "relatime": "relatime",
    "norelatime": "-relatime",
    "strictatime": "strictatime",
    "nostrictatime": "-strictatime",
    "lazytime": "lazytime",
    "nolazytime": "-lazytime",
    "sync": "sync",
    "async": "-sync",
    "dirsync": "dirsync",
    "nosymfollow": "nosymfollow",
    "symfollow": "-nosymfollow",
}
# What /proc/mounts shows of a mount of FUSE, and mount(8) repeats when it is to be remounted.
_OF_THE_KERNEL = ("user_id=", "group_id=", "default_permissions", "max_read=", "blksize=")
# Those that nobody can keep, each with the reason.
_REFUSED = {
    "mand": "Linux has no mandatory locks any more",
    "iversion": "the kernel counts no versions of files of FUSE",
    **dict.fromkeys(
        ("context", "fscontext", "defcontext", "rootcontext"),
        "rbdfs tells the kernel no SELinux context; its policy for fuse holds",
    ),
}

# A word that stands by itself, or a whole KEY=VALUE.
_FLAGS: dict[str, dict[str, Any]] = {
    "all_pools": {"source": Source()},
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
    "metrics_images": {"metrics_images": True},
    "debug": {"debug": True},
}
_VALUES: dict[str, tuple[str, Callable[[str], Any]]] = {
    "uid": ("uid", option_values.user),
    "gid": ("gid", option_values.group),
    "umask": ("umask", option_values.octal),
    "dmask": ("dmask", option_values.octal),
    "snapshots": ("snapshots", option_values.OneOf("visible", "hidden", "off", "all")),
    "datapath": ("data_path", option_values.OneOf("native", "python")),
    "sector_size": ("sector_size", option_values.OneOf(512, 4096)),
    "lock": ("lock", option_values.OneOf("exclusive", "transient", "auto")),
    "cache": ("cache", option_values.OneOf(*CACHE_SETTINGS)),
    "data_pool": ("data_pool", option_values.word),
    "object_size": ("object_size", option_values.object_size),
    "timeout": ("timeout_s", option_values.parse_seconds),
    "log": ("log_file", option_values.path),
    "metrics": ("metrics", option_values.listen_address),
    "log_level": ("log_level", option_values.log_level),
    "connect_timeout": ("connect_timeout_s", option_values.parse_seconds),
}
_CEPH: dict[str, tuple[str, Callable[[str], Any]]] = {
    "id": ("user", option_values.client),
    "conf": ("conf", option_values.path),
    "cluster": ("cluster", option_values.word),
}
# Settings of Ceph that are told of beside ours.
_CEPH_ITSELF = ("keyring", "mon_host")


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
    return {name.partition("=")[0] for name in (*_FLAGS, *_VALUES, *_CEPH, *_CEPH_ITSELF)}


def words_of(texts: Iterable[str]) -> list[str]:
    """Return the words in the values of ``-o``, none of which is to be split again."""
    return [part.strip() for text in texts for part in split_options(text)]


def apply_options(options: MountOptions, texts: Iterable[str]) -> MountOptions:
    """Return *options* changed by the values of ``-o``; see apply_words()."""
    return apply_words(options, words_of(texts))


def apply_words(options: MountOptions, words: Iterable[str]) -> MountOptions:
    """Return *options* changed by *words* of words_of(), the last of a kind winning.

    ``KEY=VALUE`` of an unknown key is a setting of Ceph, which refuses those that it does not
    know when the cluster is reached. Raises UserError for everything else that is unknown.
    """
    changes: dict[str, Any] = {}
    ceph: dict[str, Any] = {}
    pairs = list(options.ceph.pairs)
    flags = set(options.flags)
    for part in words:
        key, separator, value = part.partition("=")
        if part in _FLAGS:
            changes |= _FLAGS[part]
        elif part in _FLAGS_OF_MOUNT:
            flag = _FLAGS_OF_MOUNT[part]
            flags = flags - {flag[1:]} if flag.startswith("-") else flags | {flag}
        elif not part or part in _IGNORED or part.startswith(_IGNORED_BEGINNINGS):
            continue
        elif key in _REFUSED:
            raise UserError(f"option {key} cannot be kept: {_REFUSED[key]}", EXIT_USAGE)
        elif separator and key in _VALUES:
            changes[_VALUES[key][0]] = _parsed(part, _VALUES[key][1], value)
        elif separator and key in _CEPH:
            ceph[_CEPH[key][0]] = _parsed(part, _CEPH[key][1], value)
        elif separator and key and value and key not in _FLAGS:
            pairs.append((key, value))
        else:
            raise _unknown(part)
    dictated = (name for name in OWNERSHIP if name in changes or name in options.dictated)
    changes |= {"dictated": tuple(dictated), "flags": tuple(sorted(flags))}
    return replace(options, **changes, ceph=replace(options.ceph, **ceph, pairs=tuple(pairs)))


def asked_for(words: Iterable[str]) -> list[str]:
    """Return the words of a remount without those that mount(8) adds, which ask for nothing."""
    return [word for word in words if word != "remount" and not word.startswith(_OF_THE_KERNEL)]


def unchangeable(options: MountOptions, words: Iterable[str]) -> list[str]:
    """Return the keys of those *words* that ask for something else than a mount with *options* has.

    Of all but ro, rw, and what the kernel keeps, which can be changed. Raises UserError as
    apply_words() does.
    """
    found = []
    for word in words:
        asked = apply_words(options, [word])
        ceph = asked.ceph.with_absolute_paths(Path())
        new = replace(
            asked,
            read_only=options.read_only,
            flags=options.flags,
            log_file=asked.log_file and Path(absolute(asked.log_file)),
            ceph=replace(
                ceph, conf=ceph.conf and Path(absolute(ceph.conf)), pairs=options.ceph.pairs
            ),
        )
        if new != options or not set(ceph.pairs) <= set(options.ceph.pairs):
            found.append(word.partition("=")[0])
    return found


def _parsed(part: str, parse: Callable[[str], Any], value: str) -> Any:
    try:
        return parse(value)
    except ValueError:
        raise _bad_value(part) from None


def _bad_value(part: str) -> UserError:
    key, _, value = part.partition("=")
    hint = did_you_mean(value, _choices(key), f"{key}=")
    return UserError(f"bad value in option: {part}{hint} ({_takes(key)})", EXIT_USAGE)


def _unknown(part: str) -> UserError:
    key, separator, _ = part.partition("=")
    if separator and key in _FLAGS:
        return _bad_value(part)
    if key in names():
        return UserError(f"option {key} needs a value: {part} ({_takes(key)})", EXIT_USAGE)
    return UserError(f"unknown option {part}{did_you_mean(key, names())}", EXIT_USAGE)


def _choices(key: str) -> list[str]:
    return [choice for option in _told(key) for choice in option.choices]


def _takes(key: str) -> str:
    """Return what an option takes, for people."""
    choices = ", ".join(_choices(key))
    from rbdfs.config.option_texts import VALUES

    told = _told(key)
    # rw is no option of its own.
    if told and all(option.takes for option in told):
        value = told[0].value
        return f"it takes one of {choices}" if choices else f"it takes {VALUES[value]}"
    return f"it takes no value, or {choices}" if choices else "it takes no value"


def _told(key: str) -> list[Option]:
    # Where nothing goes wrong nobody needs it.
    from rbdfs.config.option_texts import options

    return [option for option in options() if option.word == key]
