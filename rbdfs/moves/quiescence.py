"""The image of one move, quiesced for as long as its requests have to wait."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from rbdfs.files.interplay import quiesced
from rbdfs.files.lost_images import tell

if TYPE_CHECKING:
    from rbdfs.files.shared_image import SharedImage
    from rbdfs.files.table import HandleTable
    from rbdfs.model.entry import Key


class Quiescence:
    """An image that a task of its own keeps quiesced, until somebody has it thawed.

    The task that runs hold() owns it: it alone enters interplay.quiesced(), and leaves it. Who
    moves the image, and the end of the mount, ask for the thaw by one event and wait for another.

    Attributes:
        images: those that are open of it, once it is quiesced.
    """

    def __init__(self, handles: HandleTable, image: Key) -> None:
        self.images: list[SharedImage] = []
        self._handles = handles
        self._image = image
        self._wanted = trio.Event()
        self._thawed = trio.Event()

    @property
    def over(self) -> bool:
        """Whether the image is thawed, or about to be."""
        return self._wanted.is_set()

    async def hold(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Quiesce the image, start, and keep it quiesced until thaw() or a cancellation.

        Raises InUse, before it starts, for an image that is quiesced already.
        """
        try:
            async with quiesced(self._handles, self._image) as self.images:
                task_status.started()
                await self._wanted.wait()
        finally:
            self._wanted.set()
            self._thawed.set()

    async def thaw(self) -> None:
        """Let requests go on, if they do not already; return when they do."""
        self._wanted.set()
        await self._thawed.wait()

    async def fail(self, error: OSError) -> None:
        """Fail the files that are open on the image, and thaw it: they must not be read."""
        for shared in self.images:
            tell(shared, error, logging.ERROR)
            shared.fail(error)
        await self.thaw()
