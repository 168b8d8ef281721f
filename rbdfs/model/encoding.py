"""Ceph's wire and disk encoding, as far as the metadata of RBD images uses it.

Integers are little-endian and unaligned. A string is a u32 length and its bytes. A versioned
structure is u8 version, u8 compat (the oldest version that a reader must understand), u32 length
and a body; newer versions append fields to the body, which older readers skip.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from rbdfs.errors import NotUnderstood

if TYPE_CHECKING:
    from collections.abc import Mapping

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_I64 = struct.Struct("<q")
_TIMESTAMP = struct.Struct("<II")
_VERSIONED = struct.Struct("<BBI")
_NS_PER_S = 1_000_000_000


class LaterVersion(NotUnderstood):
    """Written for readers of a later version: librbd itself may be of that version."""


class Decoder:
    """Takes values off the front of a buffer.

    Every method raises NotUnderstood where the buffer does not hold such a value.
    """

    __slots__ = ("_data", "_end", "_offset")

    def __init__(self, data: bytes, offset: int = 0, end: int | None = None) -> None:
        self._data = data
        self._offset = offset
        self._end = len(data) if end is None else end

    def _advance(self, length: int) -> int:
        offset = self._offset
        if length > self._end - offset:
            raise NotUnderstood(f"{length} bytes wanted, {self._end - offset} left")
        self._offset = offset + length
        return offset

    def u8(self) -> int:
        """Take one byte."""
        return self._data[self._advance(1)]

    def u32(self) -> int:
        """Take an unsigned integer of 32 bits."""
        value: int = _U32.unpack_from(self._data, self._advance(4))[0]
        return value

    def u64(self) -> int:
        """Take an unsigned integer of 64 bits."""
        value: int = _U64.unpack_from(self._data, self._advance(8))[0]
        return value

    def i64(self) -> int:
        """Take a signed integer of 64 bits."""
        value: int = _I64.unpack_from(self._data, self._advance(8))[0]
        return value

    def string(self) -> bytes:
        """Take a string, which may be of any bytes."""
        length = self.u32()
        offset = self._advance(length)
        return self._data[offset : offset + length]

    def text(self) -> str:
        """Take a string; bytes that are not UTF-8 become surrogates (surrogateescape)."""
        return self.string().decode("utf-8", "surrogateescape")

    def timestamp_ns(self) -> int:
        """Take a utime_t (u32 seconds, u32 nanoseconds) as nanoseconds; 0 is "never set"."""
        seconds, nanoseconds = _TIMESTAMP.unpack_from(self._data, self._advance(8))
        if nanoseconds >= _NS_PER_S:
            raise NotUnderstood(f"a timestamp with {nanoseconds} ns in its last second")
        return int(seconds) * _NS_PER_S + int(nanoseconds)

    def optional_u64(self) -> int | None:
        """Take a std::optional<uint64_t>: one byte that tells whether a value follows."""
        present = self.u8()
        if present > 1:
            raise NotUnderstood(f"an optional value marked {present}")
        return self.u64() if present else None

    def versioned(self, understood: int) -> tuple[int, int, Decoder]:
        """Take a versioned structure; return ``(version, compat, its body)``.

        *understood* is the newest version whose fields the caller knows.
        """
        offset = self._advance(_VERSIONED.size)
        version, compat, length = _VERSIONED.unpack_from(self._data, offset)
        if compat > understood:
            raise LaterVersion(f"a structure for readers of version {compat}, not {understood}")
        if not 1 <= compat <= version:
            raise NotUnderstood(f"a structure of version {version} with compat {compat}")
        body = self._advance(length)
        return version, compat, Decoder(self._data, body, body + length)

    def finish(self) -> None:
        """Check that nothing is left."""
        if self._offset != self._end:
            raise NotUnderstood(f"{self._end - self._offset} bytes too many")


def encode_string(value: bytes) -> bytes:
    """Encode a string."""
    return _U32.pack(len(value)) + value


def encode_map(pairs: Mapping[bytes, bytes]) -> bytes:
    """Encode a map of strings."""
    encoded = (encode_string(key) + encode_string(value) for key, value in pairs.items())
    return _U32.pack(len(pairs)) + b"".join(encoded)


def encode_u64(value: int) -> bytes:
    """Encode an unsigned integer of 64 bits."""
    return _U64.pack(value)
