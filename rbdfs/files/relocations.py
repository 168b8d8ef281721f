"""Where the images of open files are while they are moved to other pools, and afterwards."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import trio

from rbdfs.errors import InUse

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from rbdfs.model.entry import Entry, Key
    from rbdfs.model.relocation import Relocation


class Relocations:
    """Images that are quiesced for a move, and where those are that have moved."""

    def __init__(self) -> None:
        self._quiesced: dict[Key, trio.Event] = {}
        self._relocations: dict[Key, Relocation] = {}

    @property
    def quiescing(self) -> bool:
        """Whether an image is quiesced."""
        return bool(self._quiesced)

    @contextlib.contextmanager
    def quiesced(self, image: Key) -> Iterator[None]:
        """Have where() wait for *image*, for the time of the context."""
        if image in self._quiesced:
            raise InUse(f"image {image.image_id} is being moved already")
        quiesced = self._quiesced[image] = trio.Event()
        try:
            yield
        finally:
            self._quiesced = {
                key: event for key, event in self._quiesced.items() if event is not quiesced
            }
            quiesced.set()

    def add(self, relocation: Relocation) -> None:
        """Know where a quiesced image has gone, or come back to."""
        self._relocations[relocation.source] = relocation
        self._relocations.pop(relocation.target.image_key, None)
        self._quiesced[relocation.target.image_key] = self._quiesced[relocation.source]

    async def where(self, entry: Entry) -> Entry:
        """Return *entry* as it is once it is thawed: another one where it has moved."""
        while (quiesced := self._quiesced.get(entry.image_key)) is not None:
            await quiesced.wait()
        relocation = self._relocations.get(entry.image_key)
        return entry if relocation is None else await self.where(relocation.follow(entry))

    async def where_once(self, entry: Entry, ready: Callable[[Entry], Awaitable[None]]) -> Entry:
        """Return *entry* as where() does, once *ready* has returned for it there.

        Where it is moved meanwhile, that is waited for, and both are asked again.
        """
        while True:
            entry = await self.where(entry)
            await ready(entry)
            if entry.image_key not in self._quiesced and entry.image_key not in self._relocations:
                return entry
