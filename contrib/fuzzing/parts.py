"""An input of a fuzzer, taken apart; and what several targets do with the parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable
    from typing import Any

T = TypeVar("T")


class Parts:
    """Takes parts off the front of *data*; past its end numbers are 0, and bytes are none."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._offset = 0

    def __bool__(self) -> bool:
        return self._offset < len(self._data)

    def number(self, width: int = 1) -> int:
        """Take an unsigned little-endian integer of *width* bytes."""
        return int.from_bytes(self.take(width), "little")

    def take(self, length: int) -> bytes:
        """Take *length* bytes, or what is left."""
        taken = self._data[self._offset : self._offset + length]
        self._offset += length
        return taken

    def chunk(self) -> bytes:
        """Take bytes that have their length, of two bytes, before them."""
        return self.take(self.number(2))

    def text(self) -> str:
        """Take a chunk as a name of Ceph."""
        return self.chunk().decode("utf-8", "surrogateescape")

    def rest(self) -> bytes:
        """Take all that is left."""
        return self.take(len(self._data))


def joined(*parts: int | bytes) -> bytes:
    """Return an input with these bytes as numbers and chunks: for seeds."""
    return b"".join(
        bytes([part]) if isinstance(part, int) else len(part).to_bytes(2, "little") + part
        for part in parts
    )


def at_once(waiting: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine returns that never waits."""
    try:
        waiting.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    waiting.close()
    raise AssertionError("it waits for something")


def crc32c(data: bytes) -> int:
    """Return Ceph's CRC-32C, bit by bit: written another way than what it is to check."""
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc


def sparse(pieces: Iterable[tuple[int, bytes]], off: int, length: int) -> bytes:
    """Return *off*~*length* of zeros with *pieces* (offset, bytes) in them, the last one on top."""
    data = bytearray(length)
    for start, piece in pieces:
        first, last = max(off, start), min(off + length, start + len(piece))
        if first < last:
            data[first - off : last - off] = piece[first - start : last - start]
    return bytes(data)
