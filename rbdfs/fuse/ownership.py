"""chown and chmod: what can be kept of them, and who may ask for it.

Kept is what is asked of an image in a managed mount, as image-meta; not what an option of the mount
dictates (uid, gid, umask), nor anything of what has no image-meta of its own: snapshots,
partitions, directories, images of format 1.
"""

from __future__ import annotations

import stat
from dataclasses import replace
from typing import TYPE_CHECKING

import pyfuse3

from rbdfs.errors import ImageGone, Missing, NotPermitted
from rbdfs.fuse import trail
from rbdfs.model.ownership import MODE_BITS, NOT_ASKED_FOR, Ownership

if TYPE_CHECKING:
    from rbdfs.fuse.mounted import Mounted
    from rbdfs.model.entry import Entry


def asked_for(
    known: pyfuse3.EntryAttributes, attr: pyfuse3.EntryAttributes, fields: pyfuse3.SetattrFields
) -> Ownership:
    """Return what SETATTR asks for that is not so already."""
    mode = stat.S_IMODE(attr.st_mode)
    return Ownership(
        attr.st_uid if fields.update_uid and attr.st_uid != known.st_uid else None,
        attr.st_gid if fields.update_gid and attr.st_gid != known.st_gid else None,
        mode if fields.update_mode and mode != stat.S_IMODE(known.st_mode) else None,
    )


async def change(
    mounted: Mounted,
    entry: Entry,
    known: pyfuse3.EntryAttributes,
    wanted: Ownership,
    ctx: pyfuse3.RequestContext,
) -> bool:
    """Keep what *wanted* asks for; *known* is what *entry* has. Return whether that has changed.

    Raises OSError: EPERM where not all can be kept, or *ctx* may not ask for it; a mount with
    ``-o quiet`` keeps what it can then.
    """
    kept = _keepable(mounted, entry, wanted)
    if kept != NOT_ASKED_FOR and not _may(mounted, known, kept, ctx):
        kept = NOT_ASKED_FOR
    if kept != wanted and not mounted.options.quiet:
        raise NotPermitted(f"{entry.spec}: not all of {wanted} can be kept")
    if kept == NOT_ASKED_FOR:
        return False
    # Of one that is moved right now, where it has gone.
    entry = await mounted.handles.relocations.where(entry)
    try:
        await mounted.stamps.keep(entry, kept)
    except Missing as exc:
        raise ImageGone(f"{entry.spec} was removed") from exc
    meta = ", ".join(f"{key} {value}" for key, value in kept.image_meta().items())
    trail.leave(ctx, f"set {meta} of {entry.spec}")
    return True


def _keepable(mounted: Mounted, entry: Entry, wanted: Ownership) -> Ownership:
    if mounted.management is None or mounted.options.read_only:
        return NOT_ASKED_FOR
    if not entry.is_image or entry.image_id is None:
        return NOT_ASKED_FOR
    dictated = mounted.options.dictated
    return replace(
        wanted,
        uid=None if "uid" in dictated else wanted.uid,
        gid=None if "gid" in dictated else wanted.gid,
        mode=None if "umask" in dictated or (wanted.mode or 0) & ~MODE_BITS else wanted.mode,
    )


def _may(
    mounted: Mounted,
    known: pyfuse3.EntryAttributes,
    wanted: Ownership,
    ctx: pyfuse3.RequestContext,
) -> bool:
    """Tell whether *ctx* may ask for it, as in any file system: root, or in parts the owner.

    With allow_other the kernel has asked that already, which knows capabilities, too.
    """
    if mounted.options.allow_other or ctx.uid == 0:
        return True
    if ctx.uid != known.st_uid or wanted.uid is not None:
        return False
    return wanted.gid in (None, ctx.gid) or wanted.gid in pyfuse3.get_sup_groups(ctx.pid)
