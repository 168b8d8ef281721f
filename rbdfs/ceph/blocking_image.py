"""Changing an image or its directory: how it is opened for that, and how it fails."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import rbd

from rbdfs.ceph.errors import from_ceph
from rbdfs.errors import InUse, Missing, NotPermitted, ReadOnly
from rbdfs.model.growth_mark import length_marked

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    import rados

    from rbdfs.model.entry import Entry

BlockingImage: TypeAlias = rbd.Image
"""For the annotations of rooms that do not import rbd."""

# librbd's own locks have the cookie `auto NUMBER` (ManagedLock.cc).
_LIBRBD = "auto "


class Lockable(Protocol):
    """What is asked who has locked it: an ``rbd.Image``, or one of the native data path."""

    def list_lockers(self) -> Any: ...


@contextlib.contextmanager
def changing(action: str) -> Iterator[None]:
    """Raise errors of rados and rbd as OSError: EROFS for a client that may not write."""
    try:
        with from_ceph(action):
            yield
    except NotPermitted as exc:
        raise ReadOnly(f"{action}: no permission to write") from exc


@contextlib.contextmanager
def opened(ioctx: rados.Ioctx, entry: Entry, *, read_only: bool = True) -> Iterator[rbd.Image]:
    """Open the image of *entry*, by id where it has one; blocks. Raises rbd.Error and OSError.

    A read-only image leaves no watcher.
    """
    image_id, name = entry.image_id, encoded(entry.image)
    # The binding asks an image that was opened by id for its name, and decodes that as UTF-8.
    by_id = image_id is not None and is_utf8(name)
    where = {"image_id": image_id} if by_id else {"name": name}
    with rbd.Image(ioctx, **where, read_only=read_only) as image:
        if not by_id and image_id is not None and image.id() != image_id:
            raise Missing(f"{entry.spec}: another image has this name now")
        yield image


@contextlib.contextmanager
def opened_for_change(ioctx: rados.Ioctx, entry: Entry, action: str) -> Iterator[rbd.Image]:
    """Open the image of *entry* for writing; blocks. Raises OSError.

    What is done with it, librbd hands to the owner of the exclusive lock where that is another
    client.
    """
    with changing(action), opened(ioctx, entry, read_only=False) as image:
        refuse_advisory_lock(image, action)
        yield image


def refuse_advisory_lock(image: Lockable, action: str) -> None:
    """Raise OSError EBUSY where somebody holds a lock of `rbd lock add`.

    librbd would not get the exclusive lock, and answers EROFS, or asks for it without an end.
    """
    for client, cookie, address in lockers(image):
        if not is_exclusive(cookie):
            raise InUse(f"{action}: {client} at {address} holds lock {cookie!a}")


def holders(image: rbd.Image, dead: Container[str] = ()) -> list[tuple[str, str]]:
    """Return ``(client, address)`` of whose locks stand in the way of who changes *image*.

    An owner of the exclusive lock that is *dead*, and fenced, or does not watch the image any more,
    does not: librbd breaks its lock.
    """
    watching = {watcher["addr"] for watcher in image.watchers_list()}
    return [
        (client, address)
        for client, cookie, address in lockers(image)
        if not is_exclusive(cookie) or (address in watching and address not in dead)
    ]


def refuse_watched(image: rbd.Image, what: str, own: Container[str] = ()) -> None:
    """Raise OSError EBUSY where a client has *image* open for writing, or did 30 s ago.

    Those at the addresses *own* do not count.
    """
    for watcher in image.watchers_list():
        if watcher["addr"] not in own:
            raise InUse(f"{what} is watched by {watcher['addr']}")


def check_left_alone(image: rbd.Image, own: str, action: str) -> None:
    """Raise OSError unless a mark of growth on *image*, opened anyhow, is nobody's but *own*'s.

    InUse where another client has the image open for writing, or did 30 s ago: its file may grow.
    Missing for the mirror of an image elsewhere, which has all image-meta from there.
    """
    refuse_watched(image, f"{action}: it", {own})
    if image.features() & rbd.RBD_FEATURE_NON_PRIMARY:
        raise Missing(f"{action}: it mirrors another image")


def trimmed_to_data(image: rbd.Image, key: str, own: str, action: str) -> int | None:
    """Cut the room off that *image*, opened for writing, has beyond its data; return its size.

    Image-meta *key* has a GrowthMark, and goes. It alone does, and None is returned, where it is
    none of this image as it is. Raises rbd.Error, and as check_left_alone(); Missing without a
    mark.
    """
    check_left_alone(image, own, action)
    if image.features() & rbd.RBD_FEATURE_EXCLUSIVE_LOCK:
        try:
            image.lock_acquire(rbd.RBD_LOCK_MODE_EXCLUSIVE)
        except rbd.ReadOnlyImage as exc:
            if lockers(image):
                raise InUse(f"{action}: its lock is taken") from exc
            raise Missing(f"{action}: it mirrors another image") from exc
    # Whoever opens it from now on waits, or is refused.
    check_left_alone(image, own, action)
    try:
        text = image.metadata_get(key)
    except KeyError:
        raise Missing(f"{action}: it has been done") from None
    except UnicodeDecodeError:
        # Anybody may set image-meta, and to any bytes.
        text = ""
    end = length_marked(text, image.id(), image.size())
    if end is not None:
        end = max(end, _end_of_data(image))
        if end < image.size():
            image.resize(end)
    image.metadata_remove(key)
    return None if end is None else int(image.size())


def _end_of_data(image: rbd.Image) -> int:
    ends = [0]

    def note(off: int, length: int, exists: bool) -> None:
        if exists:
            ends.append(off + length)

    # To the byte: an object is as long as what was written to it.
    image.diff_iterate(0, image.size(), None, note, include_parent=False, whole_object=False)
    return max(ends)


def lockers(image: Lockable) -> list[tuple[str, str, str]]:
    """Return ``(client, cookie, address)`` of who held a lock when *image* was opened."""
    found = image.list_lockers()
    return list(found["lockers"]) if found else []


def is_exclusive(cookie: str) -> bool:
    """Tell whether the lock with *cookie* is librbd's exclusive one, not of `rbd lock add`."""
    return cookie.startswith(_LIBRBD)


def encoded(name: str) -> bytes:
    """Return a Ceph name as librbd takes it. The binding refuses a str that is not UTF-8."""
    return name.encode("utf-8", "surrogateescape")


def is_utf8(name: bytes) -> bool:
    """Tell whether *name* is UTF-8: the bindings take and return no other str."""
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True
