"""``mount -o remount,ro MOUNTPOINT``, for which mount(8) runs its helper: it is no typed word."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING

from rbdfs.commands.output import print_json
from rbdfs.config.ceph_settings import CephSettings
from rbdfs.config.mount_options import MountOptions
from rbdfs.config.option_words import apply_words, asked_for, unchangeable
from rbdfs.config.source import resolve_source
from rbdfs.errors import UserError
from rbdfs.keeper.command_client import ask_keeper, entry_at
from rbdfs.kernel.mount import Mount
from rbdfs.kernel.mount_users import users_of

if TYPE_CHECKING:
    from rbdfs.config.command_line import Request
    from rbdfs.kernel.mount import Entry

# How long the keeper may take to say what it was told, in seconds.
_ANSWER_S = 10.0


def run(request: Request) -> int:
    """Change the mount; raise UserError, with nothing changed, where not all can be done."""
    source, path = request.operands
    asked = asked_for(request.values["options"])
    entry = entry_at(path, "mount")
    settings = _settings_of(source, path, entry)
    # What mount(8) gives is all that is to hold.
    wanted = apply_words(MountOptions(), asked)
    read_only, flags = wanted.read_only, wanted.flags
    before = _options_of(path, entry)
    words = [*unchangeable(before, asked), *settings.unlike(before.ceph)]
    # The one of these flags that the kernel never changes: it is not in MS_RMT_MASK of linux/fs.h.
    if ("dirsync" in flags) != ("dirsync" in before.flags):
        words.append("dirsync")
    if words:
        raise UserError(_only_anew(path, f"{' and '.join(words)} cannot be changed"))
    if before.read_only and not read_only:
        raise UserError(_only_anew(path, "its server was started with ro"))
    try:
        Mount.at(path).remount(flags, read_only=read_only)
    except OSError as exc:
        raise UserError(_why(path, entry, exc)) from exc
    if request.json:
        print_json({"mountpoint": entry.mountpoint, "read_only": read_only, "flags": list(flags)})
    return 0


def _settings_of(source: str, path: str, entry: Entry) -> CephSettings:
    """Return what *source*, as fstab has it, says of Ceph; raise UserError for one of another."""
    if source in (entry.source, "none"):
        return CephSettings()
    named, settings = resolve_source(source, CephSettings(), Path())
    if str(named) != entry.source:
        raise UserError(f"{path!a} is a mount of {entry.source}, not of {source}")
    return settings.with_absolute_paths(Path())


def _options_of(path: str, entry: Entry) -> MountOptions:
    try:
        answer = ask_keeper(path, entry, "options", _ANSWER_S)
        return MountOptions.from_record(answer["options"])
    except (KeyError, TypeError, ValueError) as exc:
        raise UserError(f"{path!a}: what its keeper says is no answer") from exc


def _only_anew(path: str, reason: str) -> str:
    return f"{path!a} is not remounted: {reason} (umount and mount it again)"


def _why(path: str, entry: Entry, exc: OSError) -> str:
    reason = exc.strerror
    if exc.errno == errno.EPERM:
        reason = "only root can; fusermount3 has no way to it"
    elif exc.errno == errno.EBUSY:
        reason = f"files are open for writing, and it is used by {users_of(path, entry.device)}"
    return f"{path!a} is not remounted: {reason}"
