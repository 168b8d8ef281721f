"""What a directory entry stands for: a pool, a namespace, an image or a snapshot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from rbdfs.spec import ImageSpec


class Key(NamedTuple):
    """Identity of an entry. Names may change; a re-made image or snapshot has another key.

    ``image_id`` is empty for a directory, and the image's name preceded by ``/`` for an image
    of format 1, which has no id. ``snap_id`` is 0 for everything that is not a snapshot.
    ``namespace`` is None for the pool itself, and ``pool_id`` is -1 for the list of pools.
    """

    pool_id: int
    namespace: str | None = None
    image_id: str = ""
    snap_id: int = 0


@dataclass(frozen=True, slots=True)
class Times:
    """Timestamps in nanoseconds since 1970, as stat(2) calls them."""

    atime_ns: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """One file or directory below the mount point, as it was when it was looked at.

    Attributes:
        pool, namespace: where it lives; namespace is "" for the pool's default one.
        image, snap: names with surrogateescape for what is not UTF-8; image is "" for a
            directory, snap is None for everything that is not a snapshot.
        size: bytes.
        order: log2 of the object size.
    """

    key: Key
    pool: str = ""
    namespace: str = ""
    image: str = ""
    snap: str | None = None
    size: int = 0
    order: int = 22
    times: Times = Times()

    @property
    def is_directory(self) -> bool:
        return not self.key.image_id

    @property
    def is_snapshot(self) -> bool:
        return self.snap is not None

    @property
    def image_id(self) -> str | None:
        """The id to open the image by, or None for an image of format 1."""
        return None if self.key.image_id.startswith("/") else self.key.image_id

    @property
    def image_key(self) -> Key:
        """The key of the image that a snapshot belongs to; an image's own key."""
        return self.key._replace(snap_id=0)

    @property
    def spec(self) -> str:
        """``POOL[/NAMESPACE]/IMAGE[@SNAP]``, escaped: one line, fit for a message or a log."""
        return str(ImageSpec(self.pool, self.namespace, self.image, self.snap))
