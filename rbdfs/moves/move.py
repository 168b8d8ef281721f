"""One move of an image, as its own server and the next one know it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rbdfs.model.entry import Entry, Key
from rbdfs.model.file_name import ImageSpec
from rbdfs.model.relocation import Relocation

if TYPE_CHECKING:
    from rbdfs.moves.migration import Migration


@dataclass(slots=True)
class Move:
    """One move, from its beginning to the end of the migration, if it comes to one.

    Attributes:
        number: what the keeper knows it by.
        migration: None until it is prepared.
        relocation: where its files have gone; None until they have.
    """

    number: int
    source: ImageSpec
    source_id: str
    target: ImageSpec
    migration: Migration | None = None
    relocation: Relocation | None = None

    def __str__(self) -> str:
        return f"move of {self.source} to {self.target}"

    def record(self) -> dict[str, Any]:
        """Return what another server needs to go on with it, fit for JSON."""
        source, target = (
            (spec.pool, spec.namespace, spec.image) for spec in (self.source, self.target)
        )
        return {"source": source, "image_id": self.source_id, "target": target}

    def concerns(self, entry: Entry) -> bool:
        """Tell whether *entry* is the image, or something in it, where it was or is going."""
        if entry.namespace == self.source.namespace and entry.image_id == self.source_id:
            return True
        return ImageSpec(entry.pool, entry.namespace, entry.image) == self.target

    @classmethod
    def from_record(cls, number: int, record: dict[str, Any]) -> Move:
        """Return move *number* that record() has written, in this version or another one."""
        source, target = ImageSpec(*record["source"]), ImageSpec(*record["target"])
        return cls(number, source, record["image_id"], target)

    def back(self, pool_id: int) -> Relocation:
        """Return the way back, of what has moved out of the pool with *pool_id*."""
        if self.relocation is None:
            raise ValueError(f"{self}: not relocated")
        key = Key(pool_id, self.source.namespace, self.source_id)
        source = Entry(key, self.source.pool, self.source.namespace, self.source.image)
        snap_ids = {there: here for here, there in self.relocation.snap_ids.items()}
        return Relocation(self.relocation.target.image_key, source, snap_ids)
