"""Image specs, and the file names that stand for them below a mount point.

A Ceph name is a ``str`` decoded as UTF-8 with surrogateescape, so that any bytes can be one.  A
file name is ``bytes``.  Every name has exactly one file name and back:

* ``%``, ``/``, ``@``, NUL and every byte that is not valid UTF-8 are written ``%XX``, upper case;
* the names ``.`` and ``..`` are written ``%2E`` and ``%2E%2E``;
* nothing else is escaped, and a file name that escapes anything else is not one;
* an unescaped ``@`` separates the image from its snapshot; ``@id:N`` is the snapshot with that id,
  so a snapshot whose name begins with ``id:`` is written ``id%3A``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rbdfs.errors import NameTooLong

if TYPE_CHECKING:
    from collections.abc import Callable

NAME_MAX = 255
"""Longest file name in bytes (NAME_MAX of linux/limits.h)."""

SNAP_ID_MAX = 2**64 - 3
"""Largest snapshot id (CEPH_MAXSNAP)."""

_ESCAPES = {ord(char): f"%{ord(char):02X}" for char in "%/@\0"} | {
    # What surrogateescape makes of a byte that is not valid UTF-8.
    0xDC00 + byte: f"%{byte:02X}"
    for byte in range(0x80, 0x100)
}
_TEXT_ESCAPES = _ESCAPES | {code: f"%{code:02X}" for code in (*range(0x20), 0x7F)}
_ESCAPED_BYTE = re.compile(rb"%([0-9A-F]{2})")
_SNAP_BY_ID = re.compile(rb"id:([1-9][0-9]{0,19})")
_PARTITION = re.compile(rb"(.+)-part([1-9][0-9]{0,2})", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """One image (``snap`` and ``snap_id`` None) or one of its snapshots, by name or by id.

    ``namespace`` is "" for the default namespace.
    """

    pool: str
    namespace: str
    image: str
    snap: str | None = None
    snap_id: int | None = None

    def __str__(self) -> str:
        """``pool/ns/image@snap``, escaped as file names are, control characters too.

        So it is valid UTF-8 and one line whatever the names hold: fit for a message or a log.
        """
        path = (self.pool, *filter(None, [self.namespace]), self.image)
        text = "/".join(_escape(name, _TEXT_ESCAPES) for name in path)
        if self.snap_id is not None:
            return f"{text}@id:{self.snap_id}"
        return text if self.snap is None else f"{text}@{_escape_snap(self.snap, _TEXT_ESCAPES)}"


@dataclass(frozen=True, slots=True)
class FileName:
    """What a file name stands for: an image, or a snapshot of it by name or by id."""

    image: str
    snap: str | None = None
    snap_id: int | None = None


def parse_source(text: str) -> tuple[str, str]:
    """Split ``POOL[/NAMESPACE]`` into (pool, namespace); "" is the default namespace.

    The names stand for themselves: nothing is unescaped.  A slash at the end is what a shell
    completes a directory with.  Raises ValueError for anything else.
    """
    parts = text.removesuffix("/").split("/")
    if len(parts) > 2 or not all(parts):
        is_image = len(parts) == 3 and all(parts)
        hint = f"; an image is mounted with rbdfs rbd:{text} FILE" if is_image else ""
        raise ValueError(f"{text!a} is not POOL or POOL/NAMESPACE{hint}")
    pool, namespace = (*parts, "")[:2]
    return pool, namespace


def file_name(image: str, snap: str | None = None, *, snap_id: int | None = None) -> bytes:
    """Return the file name of an image, or of its snapshot by name or by id.

    Raises NameTooLong, and ValueError for an empty name or an id that no snapshot has.
    """
    if not image or snap == "":
        raise ValueError("an image or snapshot has no empty name")
    text = _escape(image)
    if snap is not None:
        if snap_id is not None:
            raise ValueError("a snapshot is named either by name or by id")
        text += f"@{_escape_snap(snap)}"
    elif snap_id is not None:
        if not 0 < snap_id <= SNAP_ID_MAX:
            raise ValueError(f"no snapshot has the id {snap_id}")
        text += f"@id:{snap_id}"
    return _bounded(text.encode())


def parse_file_name(name: bytes) -> FileName:
    """Return what *name* stands for: the inverse of file_name().

    Raises NameTooLong, and ValueError for a name that file_name() never returns.
    """
    image, at, snap = _bounded(name).partition(b"@")
    if not image or (at and not snap):
        raise ValueError(f"{name!r} has an empty image or snapshot name")
    image_name = _unescape(image, _escape)
    if not at:
        return FileName(image_name)
    by_id = _SNAP_BY_ID.fullmatch(snap)
    if by_id and int(by_id[1]) <= SNAP_ID_MAX:
        return FileName(image_name, snap_id=int(by_id[1]))
    return FileName(image_name, _unescape(snap, _escape_snap))


def directory_name(name: str, *, alias: bool = False) -> bytes:
    """Return the file name of the directory of a pool or a namespace.

    With *alias* it is ``@NAME``, which always means a namespace: no image name is empty.
    Raises NameTooLong, and ValueError for an empty name.
    """
    if not name:
        raise ValueError("a pool or namespace directory has no empty name")
    return _bounded(("@" * alias + _escape(name)).encode())


def parse_directory_name(name: bytes) -> tuple[str, bool]:
    """Return (pool or namespace name, whether *name* is an alias): inverse of directory_name().

    Raises NameTooLong, and ValueError for a name that directory_name() never returns.
    """
    text = _bounded(name).removeprefix(b"@")
    if not text:
        raise ValueError(f"{name!r} is no directory name")
    return _unescape(text, _escape), text != name


def partition_name(base: bytes, number: int) -> bytes:
    """Return the file name ``BASE-partN`` (as udev names them) of partition *number* of *base*.

    Raises NameTooLong.
    """
    return _bounded(b"%s-part%d" % (base, number))


def split_partition(name: bytes) -> tuple[bytes, int] | None:
    """Split ``BASE-partN`` into (base, number); None if *name* has no such end.

    Only a candidate: an image or a snapshot may bear this very name, and then that is meant.
    """
    match = _PARTITION.fullmatch(name)
    return (match[1], int(match[2])) if match else None


def _escape(name: str, escapes: dict[int, str] = _ESCAPES) -> str:
    # There and back again, so that surrogates which spell valid UTF-8 count as those characters.
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    return "%2E" * len(text) if text in (".", "..") else text.translate(escapes)


def _escape_snap(snap: str, escapes: dict[int, str] = _ESCAPES) -> str:
    text = _escape(snap, escapes)
    return text.replace(":", "%3A", 1) if text.startswith("id:") else text


def _unescape(text: bytes, escape: Callable[[str], str]) -> str:
    raw = _ESCAPED_BYTE.sub(lambda match: bytes([int(match[1], 16)]), text)
    name = raw.decode("utf-8", "surrogateescape")
    # One rule refuses every other spelling: lower case, a lone `%`, a needless or missing escape.
    if escape(name).encode() != text:
        raise ValueError(f"{text!r} is not how a file name is escaped")
    return name


def _bounded(name: bytes) -> bytes:
    if len(name) > NAME_MAX:
        raise NameTooLong(f"file name of {len(name)} bytes, at most {NAME_MAX}: {name[:40]!r}...")
    return name
