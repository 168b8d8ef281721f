"""Answers of object class rbd about directories, trash and image-meta.

An input: a byte for what is asked; then the answers in their order, each a chunk, and two bytes
for how many made-up entries come before those of the chunk.
"""

from __future__ import annotations

import contextlib
import struct
from typing import TYPE_CHECKING, Any

from fuzzing.parts import Parts, at_once
from rbdfs.errors import Missing, NotUnderstood
from rbdfs.metadata import image_meta, migration_record, pool_directory
from rbdfs.model.encoding import encode_string

if TYPE_CHECKING:
    from collections.abc import Callable

_NOTHING = bytes(4)
# More than the largest page has.
_MOST_MADE_UP = 1100
_NAME, _PAIR = b"", encode_string(b"1019b26b1499")
_TRASH = struct.pack("<BBI", 2, 1, 5) + b"\2" + encode_string(b"")


class _Osd:
    """As rados.Ioctx; it answers with what the input has, then with empty pages."""

    def __init__(self, parts: Parts, entry: bytes) -> None:
        self._parts = parts
        self._entry = entry
        self._made_up = self._answered = 0
        self.last = b""
        self.written: bytes | None = None

    def _answer(self) -> bytes:
        self._answered += 1
        assert self._answered < 10_000, "it goes on asking"
        if not self._parts:
            return _NOTHING
        answer, count = self._parts.chunk(), self._parts.number(2) % _MOST_MADE_UP
        if count:
            numbers = range(self._made_up, self._made_up + count)
            self._made_up += count
            entries = [encode_string(b"~%09d" % number) + self._entry for number in numbers]
            more = int.from_bytes(answer[:4], "little")
            answer = struct.pack("<I", count + more & 0xFFFFFFFF) + b"".join(entries) + answer[4:]
        self.last = answer
        return answer

    async def call(self, oid: str, method: str, argument: bytes) -> bytes:
        """As pool_directory.Execute."""
        return self._answer()

    def execute(
        self, oid: str, cls: str, method: str, argument: bytes, length: int
    ) -> tuple[int, bytes]:
        return 0, self._answer()

    def stat(self, oid: str) -> tuple[int, None]:
        return 1, None

    def read(self, oid: str, length: int) -> bytes:
        return self._answer()

    def set_omap(self, operation: object, keys: tuple[str, ...], values: tuple[bytes, ...]) -> None:
        (self.written,) = values

    def operate_write_op(self, operation: object, oid: str) -> None: ...


def _images(osd: _Osd) -> None:
    images = at_once(pool_directory.list_images(osd.call))
    for name, image_id in images:
        name.encode("utf-8", "surrogateescape")
        pool_directory.is_image_id(image_id)
    assert len(dict(images)) == len(images)


def _namespaces(osd: _Osd) -> None:
    for name in at_once(pool_directory.list_namespaces(osd.call)):
        if pool_directory.is_namespace(name):
            name.encode()


def _v1_images(osd: Any) -> None:
    for name in pool_directory.list_v1_images(osd):
        name.encode("utf-8", "surrogateescape")


def _migration_sources(osd: Any) -> None:
    for image_id, name in migration_record.list_migration_sources(osd).items():
        assert pool_directory.is_image_id(image_id), "it becomes part of an object's name"
        name.encode("utf-8", "surrogateescape")


def _disowned(osd: Any) -> None:
    """One byte for the source and one for the state are changed, and nothing else."""
    with contextlib.suppress(Missing):
        migration_record.disown_source(osd, "1019b26b1499")
        assert len(osd.written) == len(osd.last)
        changed = [at for at, byte in enumerate(osd.written) if byte != osd.last[at]]
        assert 6 in changed
        assert len(changed) <= 2


def _meta(osd: Any) -> None:
    image_meta.list_meta(osd, "1019b26b1499")


def _one_meta(osd: Any) -> None:
    image_meta.read_meta(osd, "1019b26b1499", b"key")


def _name(osd: Any) -> None:
    image_meta.image_name(osd, "1019b26b1499").encode("utf-8", "surrogateescape")


_ASKED: tuple[tuple[Callable[[_Osd], None], bytes], ...] = (
    (_images, _PAIR),
    (_namespaces, _NAME),
    (_v1_images, _PAIR),
    (_migration_sources, _TRASH),
    (_disowned, _TRASH),
    (_meta, _PAIR),
    (_one_meta, _PAIR),
    (_name, _PAIR),
)


def check(data: bytes) -> None:
    parts = Parts(data)
    ask, entry = _ASKED[parts.number() % len(_ASKED)]
    with contextlib.suppress(NotUnderstood):
        ask(_Osd(parts, entry))
