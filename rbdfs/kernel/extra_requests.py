"""The FUSE messages that pyfuse3 does not get: fallocate, lseek, copy_file_range, some I/O.

Sans-io: `parse()` reads a message of the kernel as the data path hands it on, the `*_reply()`
functions make the answers.  The kernel checks offsets and lengths, and so does this.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass

FUSE_READ, FUSE_WRITE = 15, 16
FUSE_FALLOCATE, FUSE_LSEEK, FUSE_COPY_FILE_RANGE = 43, 46, 47
FUSE_COPY_FILE_RANGE_64 = 53
# In the opcode of a request that is refused, of which there is the header alone.
REFUSED = 1 << 31
# In that of a header which tells that nobody is to wait for a request any longer.
ABANDONED = 1 << 30
# O_DIRECT of a WRITE, which pyfuse3 is not told, in a bit of its fh (datapath/src/abi.h).
FH_DIRECT = 1 << 62

# Of the mode of fallocate(2), linux/falloc.h.
FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE = 0x01, 0x02, 0x10

_IN = struct.Struct("=IIQQIIIHH")  # struct fuse_in_header
_OUT = struct.Struct("=IiQ")  # struct fuse_out_header
_READ_WRITE = struct.Struct("=QQIIQII")  # struct fuse_read_in, struct fuse_write_in
_FALLOCATE = struct.Struct("=QQQII")
_LSEEK = struct.Struct("=QQII")
_COPY_FILE_RANGE = struct.Struct("=QQQQQQQ")
_MAX_OFFSET = (1 << 63) - 1


class MalformedRequestError(ValueError):
    """A message that cannot be carried out.  `unique` is 0 if it cannot even be answered."""

    def __init__(self, message: str, unique: int = 0) -> None:
        super().__init__(message)
        self.unique = unique


@dataclass(frozen=True)
class Request:
    """What every request has.  `unique` is its number, which the answer repeats."""

    unique: int
    nodeid: int
    uid: int
    gid: int
    pid: int


@dataclass(frozen=True)
class Fallocate(Request):
    """fallocate(2): `mode` has FALLOC_FL_*.  Answer: empty_reply()."""

    fh: int
    offset: int
    length: int
    mode: int


@dataclass(frozen=True)
class Lseek(Request):
    """lseek(2) with SEEK_DATA or SEEK_HOLE.  Answer: lseek_reply()."""

    fh: int
    offset: int
    whence: int


@dataclass(frozen=True)
class Read(Request):
    """read(2).  Answer: read_reply()."""

    fh: int
    offset: int
    size: int


@dataclass(frozen=True)
class DurableWrite(Request):
    """write(2) with O_DSYNC, of the file or of this one request.  Answer: write_reply()."""

    fh: int
    offset: int
    data: bytes


@dataclass(frozen=True)
class CopyFileRange(Request):
    """copy_file_range(2) within the mount.  Answer: copy_reply()."""

    fh_in: int
    offset_in: int
    nodeid_out: int
    fh_out: int
    offset_out: int
    length: int
    flags: int
    wide: bool  # the answer has 64 bits for the count


@dataclass(frozen=True)
class Refused(Request):
    """A request that was under way when several servers ended.  Answer: error_reply()."""

    opcode: int


@dataclass(frozen=True)
class Abandoned(Request):
    """No request: `unique` is one that changes nothing, and is to be given up.  No answer."""


AnyRequest = Refused | Read | DurableWrite | Fallocate | Lseek | CopyFileRange


def parse(message: bytes) -> AnyRequest | Abandoned:
    """The request in a message; MalformedRequestError if its form is wrong or it is another."""
    if len(message) < _IN.size:
        raise MalformedRequestError(f"{len(message)} bytes are no message")
    length, opcode, unique, nodeid, uid, gid, pid, _extension, _padding = _IN.unpack_from(message)
    if length != len(message):
        raise MalformedRequestError(f"length {length} in {len(message)} bytes", unique)
    common = (unique, nodeid, uid, gid, pid)
    if opcode & REFUSED:
        return Refused(*common, opcode & ~REFUSED)
    if opcode & ABANDONED:
        return Abandoned(*common)
    if opcode == FUSE_READ:
        fh, offset, size, *_ = _body(_READ_WRITE, message, unique)
        _check_range(offset, size, unique)
        return Read(*common, fh, offset, size)
    if opcode == FUSE_WRITE:
        return _write(message, common)
    if opcode == FUSE_FALLOCATE:
        fh, offset, size, mode, _padding = _body(_FALLOCATE, message, unique)
        _check_range(offset, size, unique)
        return Fallocate(*common, fh, offset, size, mode)
    if opcode == FUSE_LSEEK:
        fh, offset, whence, _padding = _body(_LSEEK, message, unique)
        _check_range(offset, 0, unique)
        return Lseek(*common, fh, offset, whence)
    if opcode in (FUSE_COPY_FILE_RANGE, FUSE_COPY_FILE_RANGE_64):
        return _copy_file_range(message, common, wide=opcode == FUSE_COPY_FILE_RANGE_64)
    raise MalformedRequestError(f"opcode {opcode}", unique)


def _write(message: bytes, common: tuple[int, int, int, int, int]) -> DurableWrite:
    begin = _IN.size + _READ_WRITE.size
    fh, offset, size, *_ = _body(_READ_WRITE, message[:begin], common[0])
    data = message[begin:]
    if len(data) != size:
        raise MalformedRequestError(f"{len(data)} bytes of data, not {size}", common[0])
    _check_range(offset, size, common[0])
    return DurableWrite(*common, fh, offset, data)


def _copy_file_range(
    message: bytes, common: tuple[int, int, int, int, int], *, wide: bool
) -> CopyFileRange:
    unique = common[0]
    fh_in, offset_in, nodeid_out, fh_out, offset_out, length, flags = _body(
        _COPY_FILE_RANGE, message, unique
    )
    _check_range(offset_in, length, unique)
    _check_range(offset_out, length, unique)
    return CopyFileRange(
        *common, fh_in, offset_in, nodeid_out, fh_out, offset_out, length, flags, wide
    )


def _body(layout: struct.Struct, message: bytes, unique: int) -> tuple[int, ...]:
    if len(message) != _IN.size + layout.size:
        raise MalformedRequestError(f"{len(message)} bytes, not {_IN.size + layout.size}", unique)
    return layout.unpack_from(message, _IN.size)


def _check_range(offset: int, length: int, unique: int) -> None:
    if offset > _MAX_OFFSET or length > _MAX_OFFSET - offset:
        raise MalformedRequestError(f"{offset}~{length} leaves the range of an offset", unique)


def _reply(unique: int, payload: bytes = b"", error: int = 0) -> bytes:
    return _OUT.pack(_OUT.size + len(payload), -error, unique) + payload


def error_reply(unique: int, error: int) -> bytes:
    """`error` is a positive errno; what the kernel would not take becomes EIO."""
    return _reply(unique, error=error if 0 < error < 512 else errno.EIO)


def empty_reply(unique: int) -> bytes:
    return _reply(unique)


def read_reply(request: Read, data: bytes) -> bytes:
    """`data` is at most request.size bytes."""
    return _reply(request.unique, data)


def write_reply(request: DurableWrite, count: int) -> bytes:
    """`count` bytes were written: at most len(request.data)."""
    return _reply(request.unique, struct.pack("=I4x", count))


def lseek_reply(request: Lseek, offset: int) -> bytes:
    return _reply(request.unique, struct.pack("=Q", offset))


def copy_reply(request: CopyFileRange, count: int) -> bytes:
    """`count` bytes were copied: at most request.length, below 4 GiB unless the request is wide."""
    return _reply(request.unique, struct.pack("=Q" if request.wide else "=I4x", count))
