"""Messages that no kernel sends do no harm: the next good one is served, the data stays."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.datapath.conftest import SIZE
from tests.support import fake_kernel as fuse
from tests.support.fake_kernel import FakeKernel, fake_kernel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rbdfs.datapath.native import Image

FH, READ_ONLY_FH = 7, 8
UNIQUE = 1 << 40
PATTERN = b"pattern." * 512

numbers = st.one_of(
    st.integers(0, 4096),
    st.sampled_from([FH, READ_ONLY_FH, SIZE - 1, SIZE, SIZE + 1, 1 << 31, 1 << 32, 1 << 62]),
    st.sampled_from([(1 << 63) - 1, 1 << 63, (1 << 64) - 1]),
    st.integers(0, (1 << 64) - 1),
)
# Not WRITE on the handle that may write: it would be right to write.
opcodes = st.one_of(st.integers(0, 60).filter(lambda n: n != fuse.WRITE), st.integers(0, 2**32 - 1))
words = st.lists(numbers.map(lambda n: n.to_bytes(8, "little")), max_size=10)
bodies = st.one_of(words.map(b"".join), st.binary(max_size=200))


@pytest.fixture
def kernel(new_image: Callable[..., Image]) -> Iterator[FakeKernel]:
    image = new_image()
    with fake_kernel() as kernel:
        kernel.mux.register(FH, image, 0, SIZE, readable=True, writable=True)
        kernel.mux.register(READ_ONLY_FH, image, 0, SIZE, readable=True, writable=False)
        kernel.write(FH, 0, PATTERN)
        yield kernel


def is_alive(kernel: FakeKernel) -> None:
    """A good request is answered, and what was passed on and answered meanwhile is taken away."""
    unique = kernel.send(fuse.READ, fuse.read_body(FH, 0, len(PATTERN)), UNIQUE)
    while (reply := kernel.receive()).unique != unique:
        pass
    assert reply.payload == PATTERN
    for end in (kernel.pyfuse3, kernel.extra):
        end.setblocking(False)
        try:
            while True:
                end.recv(2 << 20)
        except BlockingIOError:
            end.settimeout(fuse.TIMEOUT_S)


fuzzed = settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@fuzzed
@given(opcode=opcodes, unique=numbers, body=bodies, length_error=st.integers(-50, 50))
def test_any_message(
    kernel: FakeKernel, opcode: int, unique: int, body: bytes, length_error: int
) -> None:
    length = max(0, fuse.IN.size + len(body) + (length_error if length_error % 5 == 0 else 0))
    if opcode == fuse.RELEASE and body[:8] == FH.to_bytes(8, "little"):
        return  # a good message: the handle is gone then
    unique = min(unique, UNIQUE - 1)
    kernel.device.send(fuse.IN.pack(length, opcode, unique, 1, 0, 0, 0, 0, 0) + body)
    is_alive(kernel)


@fuzzed
@given(fh=numbers, offset=numbers, size=st.integers(0, 2**32 - 1), data=st.binary(max_size=100))
def test_write_that_is_not_allowed(
    kernel: FakeKernel, fh: int, offset: int, size: int, data: bytes
) -> None:
    """Too long or short for its size, past the end, or on a handle that may not write."""
    if fh == FH and offset < SIZE and len(data) == size:
        offset += SIZE
    body = struct.pack("=QQIIQII", fh, offset, size, 0, 0, 0, 0) + data
    kernel.send(fuse.WRITE, body)
    is_alive(kernel)


@fuzzed
@given(message=st.binary(min_size=1, max_size=120))
def test_noise(kernel: FakeKernel, message: bytes) -> None:
    kernel.device.send(message)
    is_alive(kernel)
