"""The open images of one that moves: closed where it was, opened where it is, or back again."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from rbdfs.errors import InUse
from rbdfs.files.lost_images import tell
from rbdfs.model.image_attributes import USER
from rbdfs.model.relocation import Relocation
from rbdfs.moves.migration import image_entry

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rbdfs.files.shared_image import SharedImage
    from rbdfs.model.entry import Entry
    from rbdfs.model.file_name import ImageSpec
    from rbdfs.model.image_attributes import ImageAttributes
    from rbdfs.moves.migration import Migration
    from rbdfs.names.catalog import Catalog

# How long another client may be in the way of going back, in seconds, and between tries.
_RETURN_S = 5.0
_RETURN_PAUSE_S = 0.1


async def relocation_of(migration: Migration, catalog: Catalog) -> Relocation:
    """Return where the image and its snapshots, which have new ids, are at the target."""
    target, there = await _look(migration, migration.target, migration.target_id, catalog)
    by_name = {snap.name: snap.snap_id for snap in there.snaps if snap.namespace_type == USER}
    source, here = await _look(migration, migration.source, migration.source_id, catalog)
    snap_ids = {
        snap.snap_id: by_name[snap.name]
        for snap in here.snaps
        if snap.namespace_type == USER and snap.name in by_name
    }
    return Relocation(source.key, target, snap_ids)


async def copied_live(migration: Migration, catalog: Catalog) -> bool:
    """Tell whether librbd answers reads of the target right while it copies."""
    _, attributes = await _look(migration, migration.source, migration.source_id, catalog)
    return not attributes.snaps


async def _look(
    migration: Migration, where: ImageSpec, image_id: str, catalog: Catalog
) -> tuple[Entry, ImageAttributes]:
    entry = image_entry(await migration.ioctx(where), where, image_id)
    catalog.changed(entry)
    return entry, await catalog.attributes(entry)


async def close_images(images: Iterable[SharedImage]) -> None:
    """Close *images*, which are quiesced; all or none. Raises InUse where one cannot move."""
    for shared in images:
        if shared.growth is not None:
            raise InUse(f"{shared.entry.spec} is being written at its end")
        if shared.entry.is_snapshot and shared.entry.snap is None:
            raise InUse(f"{shared.entry.spec} is open, a snapshot that has no name")
        shared.usable()
    try:
        for shared in images:
            await shared.close()
    except OSError:
        await go_back(images)
        raise


async def reopen_images(images: Iterable[SharedImage], relocation: Relocation) -> None:
    """Open where they are now what was closed, all or none; raise OSError."""
    old = {shared: shared.entry for shared in images}
    try:
        for shared in images:
            await shared.reopen(relocation.follow(shared.entry))
    except OSError:
        for shared, entry in old.items():
            shared.entry = entry
            if shared.image is not None:
                await shared.close()
        raise


async def follow_back(images: Iterable[SharedImage], relocation: Relocation) -> None:
    """Open at the place they were moved from, by *relocation*, what was open where they had gone.

    Each by itself: what cannot be opened is lost.
    """
    for shared in images:
        if shared.error is not None:
            continue
        try:
            if shared.image is not None:
                await shared.close()
            await shared.reopen(relocation.follow(shared.entry))
        except OSError as exc:
            tell(shared, exc, logging.ERROR)
            shared.fail(exc)


async def go_back(images: Iterable[SharedImage]) -> None:
    """Open again where they were those that are closed; what cannot be opened is lost."""
    for shared in images:
        deadline = trio.current_time() + _RETURN_S
        while shared.image is None and shared.error is None:
            try:
                await shared.reopen(shared.entry)
            except OSError as exc:
                if not isinstance(exc, InUse) or trio.current_time() > deadline:
                    tell(shared, exc, logging.ERROR)
                    shared.fail(exc)
                await trio.sleep(_RETURN_PAUSE_S)
