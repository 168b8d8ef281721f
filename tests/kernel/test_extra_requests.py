"""The messages of fallocate, lseek, copy_file_range and large reads."""

from __future__ import annotations

import errno
import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbdfs.kernel import extra_requests
from rbdfs.kernel.extra_requests import MalformedRequestError

HEADER = struct.Struct("=IIQQIIIHH")
TOO_FAR = (1 << 63) - 100


def message(opcode: int, body: bytes, length: int | None = None) -> bytes:
    size = HEADER.size + len(body)
    return HEADER.pack(size if length is None else length, opcode, 10, 5, 1, 2, 3, 0, 0) + body


def fallocate(offset: int, length: int) -> bytes:
    return message(extra_requests.FUSE_FALLOCATE, struct.pack("=QQQII", 7, offset, length, 3, 0))


def test_fallocate() -> None:
    assert extra_requests.parse(fallocate(4096, 512)) == extra_requests.Fallocate(
        unique=10, nodeid=5, uid=1, gid=2, pid=3, fh=7, offset=4096, length=512, mode=3
    )
    assert extra_requests.empty_reply(10) == struct.pack("=IiQ", 16, 0, 10)


def test_lseek() -> None:
    request = extra_requests.parse(
        message(extra_requests.FUSE_LSEEK, struct.pack("=QQII", 7, 99, os.SEEK_HOLE, 0))
    )
    assert isinstance(request, extra_requests.Lseek)
    assert (request.fh, request.offset, request.whence) == (7, 99, os.SEEK_HOLE)
    assert extra_requests.lseek_reply(request, 1 << 40) == struct.pack("=IiQQ", 24, 0, 10, 1 << 40)


def test_read() -> None:
    body = struct.pack("=QQIIQII", 7, 4096, 1 << 20, 0, 0, 0, 0)
    request = extra_requests.parse(message(extra_requests.FUSE_READ, body))
    assert isinstance(request, extra_requests.Read)
    assert (request.fh, request.offset, request.size) == (7, 4096, 1 << 20)
    assert extra_requests.read_reply(request, b"x") == struct.pack("=IiQ", 17, 0, 10) + b"x"
    with pytest.raises(MalformedRequestError, match="range"):
        extra_requests.parse(
            message(extra_requests.FUSE_READ, struct.pack("=QQIIQII", 7, TOO_FAR, 4096, 0, 0, 0, 0))
        )


@pytest.mark.parametrize(
    ("opcode", "reply"),
    [
        (extra_requests.FUSE_COPY_FILE_RANGE, struct.pack("=IiQI4x", 24, 0, 10, 512)),
        (extra_requests.FUSE_COPY_FILE_RANGE_64, struct.pack("=IiQQ", 24, 0, 10, 512)),
    ],
)
def test_copy_file_range(opcode: int, reply: bytes) -> None:
    request = extra_requests.parse(message(opcode, struct.pack("=7Q", 7, 0, 6, 8, 4096, 512, 0)))
    assert isinstance(request, extra_requests.CopyFileRange)
    assert (request.fh_in, request.offset_in, request.nodeid_out) == (7, 0, 6)
    assert (request.fh_out, request.offset_out, request.length) == (8, 4096, 512)
    assert extra_requests.copy_reply(request, 512) == reply


def test_error_reply() -> None:
    assert extra_requests.error_reply(10, errno.ENXIO) == struct.pack("=IiQ", 16, -errno.ENXIO, 10)
    for odd in (0, -1, 512, 1 << 20):
        assert extra_requests.error_reply(10, odd) == struct.pack("=IiQ", 16, -errno.EIO, 10)


@pytest.mark.parametrize(
    "malformed",
    [
        fallocate(TOO_FAR, 101),
        fallocate(1 << 63, 0),
        fallocate(0, (1 << 64) - 1),
        message(extra_requests.FUSE_FALLOCATE, bytes(31)),
        message(extra_requests.FUSE_FALLOCATE, bytes(33)),
        message(extra_requests.FUSE_FALLOCATE, bytes(32), length=71),
        message(extra_requests.FUSE_LSEEK, struct.pack("=QQII", 7, 1 << 63, 0, 0)),
        message(
            extra_requests.FUSE_COPY_FILE_RANGE, struct.pack("=7Q", 7, 0, 6, 8, TOO_FAR, 101, 0)
        ),
        message(1, b"lookup\0"),
    ],
)
def test_malformed(malformed: bytes) -> None:
    with pytest.raises(MalformedRequestError) as caught:
        extra_requests.parse(malformed)
    assert caught.value.unique == 10


@given(st.binary(max_size=120))
def test_noise(noise: bytes) -> None:
    with pytest.raises(MalformedRequestError):
        extra_requests.parse(noise)


@given(st.sampled_from([36, 43, 46, 47, 53]), st.binary(max_size=80))
def test_any_body(opcode: int, body: bytes) -> None:
    """Either a request within the range of offsets, or malformed."""
    try:
        request = extra_requests.parse(message(opcode, body))
    except MalformedRequestError:
        return
    if isinstance(request, extra_requests.Fallocate):
        assert request.offset + request.length < 1 << 63


def test_the_mark_of_a_direct_write_is_that_of_the_data_path() -> None:
    native = pytest.importorskip("rbdfs.datapath.native")
    assert native.FH_DIRECT == extra_requests.FH_DIRECT
