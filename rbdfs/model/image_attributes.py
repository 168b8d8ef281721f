"""Attributes of one image and of its snapshots, as their header objects have them."""

from __future__ import annotations

from dataclasses import dataclass

from rbdfs.model.ownership import NOT_ASKED_FOR, Ownership

SIZE_MAX = 2**63 - 1
"""Largest size of a file in bytes (off_t). librbd makes and opens images up to twice that."""

USER = "user"
"""The namespace type of the snapshots that `rbd snap ls` shows."""


@dataclass(frozen=True, slots=True)
class SnapAttributes:
    """One snapshot. Its name holds bytes that are not UTF-8 as surrogates (surrogateescape).

    ``namespace_type`` is "user" for what ``rbd snap ls`` shows, "group", "trash" (removed, but
    kept for its clones), "mirror", or the number of a type that is not known here. ``size`` is in
    bytes, the timestamp 0 where Ceph keeps none. ``flags`` are those of ImageAttributes, but of
    the snapshot's own object map. ``parent_overlap`` is how many bytes at the front may come from
    the parent. Both are None where they were not read.
    """

    snap_id: int
    name: str
    namespace_type: str | int
    size: int
    timestamp_ns: int
    protected: bool
    flags: int | None
    parent_overlap: int | None


@dataclass(frozen=True, slots=True)
class ParentSpec:
    """The snapshot that an image was cloned from; ``overlap`` is in bytes, None for the head."""

    pool_id: int
    pool_namespace: str
    image_id: str
    snap_id: int
    overlap: int | None


@dataclass(frozen=True, slots=True)
class ImageAttributes:
    """One image. Sizes are in bytes, an object has ``2**order``.

    Timestamps are 0 where Ceph keeps none. ``data_pool_id`` is -1 where the data is in the
    image's own pool. ``snaps`` are in order of their ids, of all namespace types. ``flags`` are
    RBD_FLAG_* (1: the object map is invalid, 2: fast-diff is), None where they were not read.
    ``striped`` tells that consecutive bytes go to objects in turns. ``snap_parent`` is what only
    snapshots of before Nautilus were cloned from, where the image has no parent any more.
    ``marked`` tells that there is a mark of growth (model/growth_mark), whatever it says.
    ``ownership`` is what was asked for of its file.
    """

    image_id: str
    size: int
    order: int
    features: int
    create_ns: int
    access_ns: int
    modify_ns: int
    snaps: tuple[SnapAttributes, ...]
    data_pool_id: int
    parent: ParentSpec | None
    flags: int | None
    striped: bool
    snap_parent: ParentSpec | None = None
    marked: bool = False
    ownership: Ownership = NOT_ASKED_FOR
