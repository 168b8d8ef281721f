"""What a directory entry stands for: a pool, a namespace, an image, a snapshot or a partition."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from rbdfs.errors import NotUnderstood
from rbdfs.model.file_name import ImageSpec
from rbdfs.model.image_attributes import SIZE_MAX, USER
from rbdfs.model.ownership import NOT_ASKED_FOR, Ownership
from rbdfs.model.record import known_fields

if TYPE_CHECKING:
    from rbdfs.model.image_attributes import ImageAttributes, SnapAttributes

NO_POOL = -1


class Key(NamedTuple):
    """Identity of an entry. Names may change; a re-made image or snapshot has another key.

    ``image_id`` is empty for a directory, and the image's name preceded by ``/`` for an image
    of format 1, which has no id. ``snap_id`` is 0 for everything that is not a snapshot,
    ``partition`` is 0 for a whole image or snapshot. ``namespace`` is None for the pool itself,
    and ``pool_id`` is NO_POOL for the list of pools.
    """

    pool_id: int
    namespace: str | None = None
    image_id: str = ""
    snap_id: int = 0
    partition: int = 0


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
            directory, snap is None for an image, and for a snapshot that is known by id only.
        offset: where the file begins in the image, in bytes: not 0 for a partition.
        size: bytes.
        allocated: bytes that it takes, in whole objects; None where that is not known.
        order: log2 of the object size.
        ownership: who owns it and may use it, as far as somebody has asked for that.
    """

    key: Key
    pool: str = ""
    namespace: str = ""
    image: str = ""
    snap: str | None = None
    offset: int = 0
    size: int = 0
    allocated: int | None = None
    order: int = 22
    times: Times = Times()
    ownership: Ownership = NOT_ASKED_FOR

    def holds(self, other: Entry) -> bool:
        """Return whether *other* is in this directory: a namespace, or a pool's own."""
        return (self.key.pool_id, self.namespace) == (other.key.pool_id, other.namespace)

    def record(self) -> dict[str, Any]:
        """Return the entry fit for JSON, for from_record().

        Without its ownership: whoever tells the kernel of it looks at the image anew.
        """
        # asdict() copies what it finds, ten times as slowly.
        record = {name: getattr(self, name) for name in self.__slots__ if name != "ownership"}
        times = {name: getattr(self.times, name) for name in self.times.__slots__}
        return record | {"key": list(self.key), "times": times}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Entry:
        """Return the entry that record() has written, in this version or another one."""
        times = Times(**known_fields(Times, record["times"]))
        known = known_fields(cls, record)
        return cls(**known | {"key": Key(*record["key"][: len(Key._fields)]), "times": times})

    @property
    def is_directory(self) -> bool:
        return not self.key.image_id

    @property
    def is_pool_list(self) -> bool:
        return self.key.pool_id == NO_POOL

    @property
    def is_image(self) -> bool:
        return not (self.is_directory or self.is_snapshot or self.key.partition)

    @property
    def is_snapshot(self) -> bool:
        return self.key.snap_id != 0

    @property
    def image_id(self) -> str | None:
        """The id to open the image by, or None for an image of format 1."""
        return None if self.key.image_id.startswith("/") else self.key.image_id

    @property
    def whole_key(self) -> Key:
        """The key of the image or snapshot that this is, or is a partition of."""
        return self.key._replace(partition=0) if self.key.partition else self.key

    @property
    def image_key(self) -> Key:
        """The key of the image that this is, or is a snapshot or a partition of."""
        if not (self.key.snap_id or self.key.partition):
            return self.key
        return self.key._replace(snap_id=0, partition=0)

    @property
    def whole(self) -> Entry:
        """The image or snapshot that a partition is in; its size is not known here."""
        return replace(self, key=self.whole_key, offset=0) if self.key.partition else self

    @property
    def spec(self) -> str:
        """``POOL[/NAMESPACE]/IMAGE[@SNAP]``, escaped: one line, fit for a message or a log."""
        snap_id = self.key.snap_id if self.is_snapshot and self.snap is None else None
        text = str(ImageSpec(self.pool, self.namespace, self.image, self.snap, snap_id))
        return f"{text}-part{self.key.partition}" if self.key.partition else text

    @property
    def image_spec(self) -> str:
        """``POOL[/NAMESPACE]/IMAGE`` of the image that this is, or is a snapshot or a part of."""
        return str(ImageSpec(self.pool, self.namespace, self.image))


def find_snap(attributes: ImageAttributes, snap_id: int) -> SnapAttributes | None:
    """Return the snapshot with *snap_id* among *attributes*, or None."""
    return next((snap for snap in attributes.snaps if snap.snap_id == snap_id), None)


def image_entry(parent: Entry, name: str, attributes: ImageAttributes) -> Entry:
    """Return the entry of image *name* in directory *parent*.

    Raises NotUnderstood where it is larger than a file can be.
    """
    _check_size(attributes.size)
    modify_ns = attributes.modify_ns
    return Entry(
        Key(parent.key.pool_id, parent.namespace, attributes.image_id or f"/{name}"),
        parent.pool,
        parent.namespace,
        name,
        size=attributes.size,
        order=attributes.order,
        # What has changed nothing but the metadata has no time of its own.
        times=Times(attributes.access_ns, modify_ns, max(attributes.create_ns, modify_ns)),
        ownership=attributes.ownership,
    )


def snap_entry(image: Entry, snap: SnapAttributes) -> Entry:
    """Return the entry of a snapshot of *image*.

    Raises NotUnderstood where it is larger than a file can be.
    """
    _check_size(snap.size)
    stamp = snap.timestamp_ns
    return replace(
        image,
        key=image.key._replace(snap_id=snap.snap_id),
        # The name of a snapshot in the trash or of a mirror is Ceph's own affair.
        snap=snap.name if snap.namespace_type == USER else None,
        size=snap.size,
        times=Times(stamp, stamp, stamp),
    )


def _check_size(size: int) -> None:
    if size > SIZE_MAX:
        raise NotUnderstood(f"{size} bytes, more than a file can have")


def partition_entry(whole: Entry, number: int, offset: int, size: int) -> Entry:
    """Return the entry of a partition of *whole*, which is at ``offset~size``."""
    return replace(
        whole,
        key=whole.key._replace(partition=number),
        offset=offset,
        size=size,
        # That of the whole says little about a part.
        allocated=None,
    )


def namespace_entry(parent: Entry, name: str) -> Entry:
    """Return the entry of a namespace of pool *parent*."""
    return Entry(Key(parent.key.pool_id, name), parent.pool, name)
