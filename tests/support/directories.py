"""Directories that are read call by call: the C library would read ahead."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

GETDENTS64 = 217
ROOM = 4096


def entries(directory: int, room: int = ROOM) -> Iterator[list[str]]:
    """What getdents64(2) returns of an open directory, *room* bytes at a time."""
    libc, buffer = ctypes.CDLL(None, use_errno=True), ctypes.create_string_buffer(room)
    while length := libc.syscall(GETDENTS64, directory, buffer, room):
        if length < 0:
            raise OSError(ctypes.get_errno(), "getdents64")
        names, off = [], 0
        while off < length:
            size = int.from_bytes(buffer.raw[off + 16 : off + 18], "little")
            names.append(buffer.raw[off + 19 : off + size].split(b"\0")[0].decode())
            off += size
        yield [name for name in names if name not in (".", "..")]
