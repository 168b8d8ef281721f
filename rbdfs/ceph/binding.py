"""What is used of an open image of librbd: by Debian's binding, or by the native data path's."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Protocol

import rbd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Extent = tuple[int, int, bool]
"""``(off, length, exists)``."""

_OBJECT_MAP_INVALID: int = rbd.RBD_FLAG_OBJECT_MAP_INVALID
_FAST_DIFF_INVALID: int = rbd.RBD_FLAG_FAST_DIFF_INVALID


class Binding(Protocol):
    """What is used of an open ``rbd.Image``; a fake for the tests has the same."""

    def size(self) -> int: ...
    def features(self) -> int: ...
    def flags(self) -> int: ...
    def resize(self, size: int, allow_shrink: bool = True) -> None: ...
    def metadata_set(self, key: str, value: str) -> None: ...
    def metadata_remove(self, key: str) -> None: ...
    def lock_acquire(self, lock_mode: int) -> None: ...
    def is_exclusive_lock_owner(self) -> bool: ...
    def list_lockers(self) -> Any: ...
    def config_list(self) -> Iterable[dict[str, Any]]: ...
    def watchers_list(self) -> Iterable[dict[str, Any]]: ...
    def aio_write_zeroes(
        self, offset: int, length: int, oncomplete: Callable[..., None], zero_flags: int = 0
    ) -> object: ...
    def aio_read(self, offset: int, length: int, oncomplete: Callable[..., None]) -> object: ...
    def aio_write(self, data: bytes, offset: int, oncomplete: Callable[..., None]) -> object: ...
    def aio_flush(self, oncomplete: Callable[..., None]) -> object: ...
    def close(self) -> None: ...


def iterate_diff(binding: rbd.Image) -> list[Extent]:
    """Return ``(off, length, exists)`` of a diff of the whole image, in whole objects; blocks."""
    extents: list[Extent] = []

    def add(off: int, length: int, exists: bool) -> None:
        extents.append((off, length, exists))

    binding.diff_iterate(0, binding.size(), None, add, include_parent=True, whole_object=True)
    return extents


def known_extents(
    binding: Binding, list_extents: Callable[[Any], list[Extent]]
) -> list[Extent] | None:
    """Return what *list_extents* does, or None where librbd cannot quickly tell; blocks."""
    features = binding.features()
    # While an image is being moved, its holes may be filled by where it comes from.
    if not features & rbd.RBD_FEATURE_FAST_DIFF or features & rbd.RBD_FEATURE_MIGRATING:
        return None
    if binding.flags() & (_OBJECT_MAP_INVALID | _FAST_DIFF_INVALID):
        return None
    return list_extents(binding)


def resize(binding: Binding, size: int, shrink: bool) -> None:
    """Resize to *size* bytes; blocks. Raises EINVAL for less than it has, without *shrink*."""
    try:
        binding.resize(size, shrink)
    except rbd.InvalidArgument as exc:
        # Debian's binding looks at the size itself, and its error has no errno then.
        raise rbd.InvalidArgument(str(exc), errno=errno.EINVAL) from exc
