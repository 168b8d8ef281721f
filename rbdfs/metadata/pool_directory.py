"""The images and namespaces of a pool, read from its directory objects.

The binding's ``RBD.list2()`` raises UnicodeDecodeError for the whole pool where one name is not
UTF-8. The object class underneath answers with bytes, which are decoded here.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Awaitable, Callable
from typing import Any

from rados import ObjectNotFound

from rbdfs.ceph.blocking_image import encoded, is_utf8
from rbdfs.ceph.errors import from_ceph
from rbdfs.errors import Missing, NotUnderstood
from rbdfs.model.encoding import Decoder, encode_string, encode_u64

Execute = Callable[[str, str, bytes], Awaitable[bytes]]
"""``(oid, method, argument)`` -> the answer of a read method of object class rbd.
Raises OSError."""

_DIRECTORY = "rbd_directory"
_NAMESPACES = "rbd_namespace"
# No slash: before a name it stands for "no id" (Key.image_id).
_IMAGE_ID = re.compile(r"[!-.0-~]{1,1024}")
# librbd's own listings use the same (list_images_v2 in src/librbd/api/Image.cc).
_PAGE_NAMES = 1024
_FIRST_ANSWER_BYTES = 1 << 17
_MAX_ANSWER_BYTES = 1 << 26


async def list_images(execute: Execute) -> list[tuple[str, str]]:
    """Return ``(name, image id)`` of the images of format 2 in a pool or namespace, by name.

    In names and ids, bytes that are not UTF-8 are surrogates (surrogateescape). A pool without a
    directory has no images. Raises OSError and NotUnderstood.
    """
    images: dict[bytes, bytes] = {}
    await _list(execute, _DIRECTORY, "dir_list", lambda page: _take_images(page, images))
    return [(_text(name), _text(images[name])) for name in sorted(images)]


def is_image_id(image_id: str) -> bool:
    """Tell whether librbd may have made *image_id*: what names an object, and no other's.

    Whoever may write to a directory can put anything there.
    """
    return _IMAGE_ID.fullmatch(image_id) is not None


def is_namespace(name: str) -> bool:
    """Tell whether *name*, or "", can be a namespace's.

    The binding takes no other bytes than UTF-8, and librados no more than comes before a NUL: that
    may be the name of another namespace.
    """
    return is_utf8(encoded(name)) and "\0" not in name


async def list_namespaces(execute: Execute) -> list[str]:
    """Return the names of a pool's namespaces; *execute* is for the pool's default namespace.

    Raises OSError and NotUnderstood.
    """
    names: set[bytes] = set()
    await _list(execute, _NAMESPACES, "namespace_list", lambda page: _take_namespaces(page, names))
    return [_text(name) for name in sorted(names)]


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def decode_v1_directory(data: bytes) -> list[str]:
    """Return the names of the images of format 1, from the data of object ``rbd_directory``.

    They have no image id. The object has data, a tmap (a header string, then a map), only in a
    pool's default namespace and only if format 1 was ever used there: librbd 16 still opens such
    images, but makes none. Raises NotUnderstood.
    """
    if not data:
        return []
    decoder = Decoder(data)
    decoder.string()
    names = []
    for _ in range(decoder.u32()):
        names.append(decoder.text())
        decoder.string()
    decoder.finish()
    return names


def list_v1_images(ioctx: Any) -> list[str]:
    """Return the names of the images of format 1 in *ioctx* (a ``rados.Ioctx``); blocks.

    Raises OSError and NotUnderstood.
    """
    with from_ceph(f"reading {_DIRECTORY}"):
        try:
            size, _ = ioctx.stat(_DIRECTORY)
            data = ioctx.read(_DIRECTORY, size) if size else b""
        except ObjectNotFound:
            return []
    return decode_v1_directory(data)


def call_class(ioctx: Any, oid: str, method: str, argument: bytes) -> bytes:
    """Call read method *method* of object class rbd on *oid*; block until it answers.

    *ioctx* is a ``rados.Ioctx``. Raises OSError with the errno of the class.

    ``Ioctx.aio_execute`` would need no thread, but librados 16.2 copies an answer that is longer
    than the buffer beyond its end, and a name of any length can stand in an answer. The
    synchronous call says ERANGE.
    """
    length = _FIRST_ANSWER_BYTES
    while True:
        try:
            with from_ceph(f"{oid}: {method}"):
                answer: bytes = ioctx.execute(oid, "rbd", method, argument, length)[1]
                return answer
        except OSError as exc:
            if exc.errno != errno.ERANGE or length >= _MAX_ANSWER_BYTES:
                raise
        length *= 8


async def _list(
    execute: Execute, oid: str, method: str, take: Callable[[Decoder], list[bytes]]
) -> None:
    """Go through the pages of a listing that takes ``(start_after, max_return)``."""
    last = b""
    while True:
        try:
            answer = await execute(oid, method, encode_string(last) + encode_u64(_PAGE_NAMES))
        except Missing:
            return
        page = Decoder(answer)
        names = take(page)
        page.finish()
        if len(names) < _PAGE_NAMES:
            return
        # Both methods go in the order of the names' bytes; anything else might never end.
        if max(names) <= last:
            raise NotUnderstood(f"{oid}: names up to {last!r} again")
        last = max(names)


def _take_images(page: Decoder, images: dict[bytes, bytes]) -> list[bytes]:
    taken = [(page.string(), page.string()) for _ in range(page.u32())]
    images.update(taken)
    return [name for name, _ in taken]


def _take_namespaces(page: Decoder, names: set[bytes]) -> list[bytes]:
    taken = [page.string() for _ in range(page.u32())]
    names.update(taken)
    return taken
