"""What open files do for those who change names: close, trim, or let an image go for a moment.

That is rm, rename, moves, snapshots of files that grow.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from rbdfs.files.claim import lost
from rbdfs.files.lost_images import tell

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from rbdfs.files.shared_image import SharedImage
    from rbdfs.files.table import HandleTable
    from rbdfs.model.entry import Entry, Key


async def settled(handles: HandleTable, entry: Entry) -> None:
    """Wait until what nobody uses any more is closed, and what another server had open is open.

    The kernel does not wait for RELEASE, and so what follows a close(2) may be quicker. And what
    another client of ours changes in an image takes the lock of the server that died from it, as
    somebody else would who writes: see files.locks.
    """
    for key in {entry.whole_key, entry.image_key}:
        shared = handles.shared(replace(entry, key=key))
        if shared is not None and (shared.unused or shared.image is None):
            await shared.unchanging()


@contextlib.asynccontextmanager
async def trimmed(handles: HandleTable, entry: Entry) -> AsyncIterator[None]:
    """Keep an image exactly as long as its file for the time of the context; requests wait.

    So a snapshot of a file that grows has its true size. Raises OSError.
    """
    shared = await _open_here(handles, entry)
    if shared is None or shared.exact:
        yield
        return
    async with shared.quiesced():
        if shared.growth is not None and shared.image is not None:
            await shared.growth.trim(shared.image)
        yield


@contextlib.asynccontextmanager
async def quiesced(handles: HandleTable, image: Key) -> AsyncIterator[list[SharedImage]]:
    """Keep an image and its snapshots quiesced for the time of the context.

    No request to them begins, nothing of them is opened and nothing closed. Yields those that are
    open. What waits is thawed at the end, and goes on where HandleTable.relocate() has said to.
    """
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(handles.relocations.quiesced(image))
        images = [shared for shared in handles.images() if shared.entry.image_key == image]
        for shared in images:
            await stack.enter_async_context(shared.quiesced())
        yield [shared for shared in images if not shared.unused]


@contextlib.asynccontextmanager
async def released(handles: HandleTable, entry: Entry) -> AsyncIterator[None]:
    """Have nobody here watch or lock an image for the time of the context; requests wait.

    Its files go on afterwards, wherever the image is then: it is opened by its id. Raises OSError.
    """
    is_image = not (entry.is_snapshot or entry.is_directory)
    shared = await _open_here(handles, entry) if is_image else None
    if shared is None or shared.image is None or shared.image.read_only:
        # Who reads leaves no watch.
        yield
        return
    async with shared.quiesced():
        was_open = shared.image is not None
        if was_open:
            await shared.close()
        try:
            yield
        finally:
            if was_open:
                await _reopen(shared)


async def _open_here(handles: HandleTable, entry: Entry) -> SharedImage | None:
    """Return the image of *entry*, if files are open on it, once they are so here.

    Of what another server had open nobody can tell before whether it is longer than its file.
    """
    shared = handles.shared(entry)
    if shared is not None and shared.image is None:
        await shared.unchanging()
        shared = handles.shared(entry)
    return shared


async def _reopen(shared: SharedImage) -> None:
    with trio.CancelScope(shield=True):
        try:
            await shared.reopen(shared.entry)
        except OSError as exc:
            tell(shared, exc, logging.ERROR)
            shared.fail(lost(shared.entry, exc))
