"""Requests that the keeper refuses, where no server is left."""

from __future__ import annotations

import errno
import socket
import struct
from typing import TYPE_CHECKING

import pytest

from rbdfs.kernel.raw_requests import refuse_request

if TYPE_CHECKING:
    from collections.abc import Iterator

LOOKUP, FORGET, RELEASE = 1, 2, 18
UNIQUE = 77


class Device:
    """The kernel's end, and the keeper's."""

    def __init__(self) -> None:
        self.keepers, self.kernels = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.kernels.setblocking(False)

    def refuse(self, message: bytes) -> int | None:
        self.kernels.send(message)
        return refuse_request(self.keepers.fileno())

    def answer(self) -> bytes | None:
        try:
            return self.kernels.recv(100)
        except BlockingIOError:
            return None


@pytest.fixture
def device() -> Iterator[Device]:
    device = Device()
    with device.keepers, device.kernels:
        yield device


def request(opcode: int, body: bytes = b"") -> bytes:
    return struct.pack("=IIQQIIIHH", 40 + len(body), opcode, UNIQUE, 1, 0, 0, 0, 0, 0) + body


EIO = struct.pack("=IiQ", 16, -errno.EIO, UNIQUE)


@pytest.mark.parametrize(
    ("message", "closed", "answer"),
    [
        pytest.param(request(LOOKUP, b"name\0"), None, EIO, id="lookup"),
        pytest.param(request(FORGET, bytes(8)), None, None, id="forget"),
        pytest.param(request(RELEASE, struct.pack("=QIIQ", 9, 0, 0, 0)), 9, EIO, id="release"),
        pytest.param(request(RELEASE, b"\1\2\3"), None, EIO, id="release that is cut"),
        pytest.param(request(LOOKUP)[:39], None, None, id="no header"),
        pytest.param(b"\0", None, None, id="a byte"),
    ],
)
def test_refusal(device: Device, message: bytes, closed: int | None, answer: bytes | None) -> None:
    assert device.refuse(message) == closed
    assert device.answer() == answer
