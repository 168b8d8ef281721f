"""What the multiplexer changes in pyfuse3's replies: INIT, OPEN, CREATE."""

from __future__ import annotations

import errno
import os
import select
import struct
from typing import TYPE_CHECKING

import pytest

from rbdfs.datapath.native import (
    FOPEN_PARALLEL_DIRECT_WRITES,
    FUSE_WRITEBACK_CACHE,
    INIT_FLAGS,
    LEDGER_BYTES,
)
from rbdfs.keeper import estate
from rbdfs.kernel import extra_requests
from tests.datapath.conftest import SIZE
from tests.support import fake_kernel as fuse
from tests.support.fake_kernel import FakeKernel, fake_kernel, write_body

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rbdfs.datapath.native import Image

INIT_IN = struct.Struct("=5I44x")
INIT_OUT = struct.Struct("=IIIIHHIIHHI28x")
INIT_EXT = 1 << 30
KEEP_CACHE = 2
FH = 7
# FUSE_UNIQUE_RESEND
RESENT = 1 << 63
RELEASEDIR = 29


def init(kernel: FakeKernel, offered: int, flags: int = 1) -> tuple[int, ...]:
    """The amended reply to an INIT with these flags, from a pyfuse3 that answers `flags`."""
    body = INIT_IN.pack(7, 45, 131072, offered & 0xFFFFFFFF, offered >> 32)
    unique = kernel.send(fuse.INIT, body)
    assert kernel.passed_on() == (fuse.INIT, unique, body)
    kernel.answer(unique, INIT_OUT.pack(7, 38, 131072, flags, 0, 0, 131072, 1, 32, 0, 0))
    reply = kernel.receive()
    assert (reply.unique, reply.error) == (unique, 0)
    return INIT_OUT.unpack(reply.payload)


def test_init_asks_for_what_the_kernel_offers() -> None:
    with fake_kernel(max_background=100) as kernel:
        reply = init(kernel, (1 << 64) - 1)
    major, minor, readahead, low, background, congestion, max_write, _, pages, _, high = reply
    assert (major, minor, readahead) == (7, 38, 131072)
    assert high << 32 | low == INIT_FLAGS | INIT_EXT | 1
    assert (background, congestion, max_write, pages) == (100, 75, 1 << 20, 256)


def test_init_asks_for_nothing_else() -> None:
    with fake_kernel() as kernel:
        reply = init(kernel, 1)
    assert reply[3] == 1
    assert reply[10] == 0
    assert reply[6] == 131072  # requests stay as small as pyfuse3 said


def test_init_settings() -> None:
    with fake_kernel(
        max_write=196608, init_set=INIT_FLAGS | FUSE_WRITEBACK_CACHE, init_clear=1 << 12
    ) as kernel:
        reply = init(kernel, (1 << 64) - 1, flags=1 << 12 | 1)
    assert reply[3] & FUSE_WRITEBACK_CACHE
    assert not reply[3] & 1 << 12
    assert (reply[6], reply[8]) == (196608, 48)


def test_init_counts_in_pages_of_the_kernel() -> None:
    """With pages of 64 KiB, a READ of 256 of them would be 16 MiB."""
    with fake_kernel(page_bytes=65536) as kernel:
        reply = init(kernel, (1 << 64) - 1)
    assert (reply[6], reply[8]) == (1 << 20, 16)


def test_recorded_init_sets_pyfuse3_up() -> None:
    with fake_kernel() as kernel:
        assert kernel.mux.init_request is None
        init(kernel, (1 << 64) - 1)
        recorded = kernel.mux.init_request
    assert recorded is not None
    with fake_kernel(start=False) as kernel:
        kernel.mux.start(recorded)
        request = kernel.passed_on()
        assert request.opcode == fuse.INIT
        kernel.answer(request.unique, INIT_OUT.pack(7, 38, 0, 1, 0, 0, 131072, 1, 32, 0, 0))
        assert kernel.is_quiet(kernel.device)
        assert kernel.mux.init_request == recorded
        kernel.mux.drain(fuse.TIMEOUT_S)


def test_open_and_create_get_the_flags_of_the_handle(image: Image) -> None:
    flags = FOPEN_PARALLEL_DIRECT_WRITES
    opened = struct.pack("=QII", FH, KEEP_CACHE, 0)
    amended = struct.pack("=QII", FH, KEEP_CACHE | flags, 0)
    with fake_kernel() as kernel:
        kernel.mux.register(FH, image, 0, SIZE, readable=True, writable=True, open_flags=flags)
        unique = kernel.send(fuse.OPEN, bytes(8))
        kernel.passed_on()
        kernel.answer(unique, opened)
        assert kernel.receive().payload == amended

        unique = kernel.send(fuse.CREATE, bytes(16) + b"name\0")
        kernel.passed_on()
        kernel.answer(unique, bytes(128) + opened)
        assert kernel.receive().payload == bytes(128) + amended

        # The same bytes as the answer to something else are its own.
        unique = kernel.send(fuse.GETXATTR, bytes(8) + b"user.x\0")
        kernel.passed_on()
        kernel.answer(unique, opened)
        assert kernel.receive().payload == opened

        unknown = struct.pack("=QII", FH + 1, KEEP_CACHE, 0)
        unique = kernel.send(fuse.OPEN, bytes(8))
        kernel.passed_on()
        kernel.answer(unique, unknown)
        assert kernel.receive().payload == unknown


def test_requests_that_must_not_run_twice_are_found_by_who_waits_for_them() -> None:
    """Of two threads at the same inode each has its own; one that is sent again keeps its mark."""
    with fake_kernel() as kernel:
        open_in = struct.pack("=II", 0, 0)
        first = kernel.send(fuse.OPEN, open_in, pid=11)
        again = kernel.send(fuse.OPEN, open_in, unique=RESENT | 1000, pid=12)
        written = kernel.send(fuse.WRITE, write_body(99, 0, b"data"), pid=13)
        for unique in (first, again, written):
            assert kernel.passed_on().unique == unique
        assert kernel.mux.take_request(fuse.OPEN, 1, 12) == RESENT | 1000
        assert kernel.mux.take_request(fuse.OPEN, 1, 12) == 0
        assert kernel.mux.take_request(fuse.CREATE, 1, 11) == 0
        assert kernel.mux.take_request(fuse.OPEN, 2, 11) == 0
        assert kernel.mux.take_request(fuse.WRITE, 1, 13) == 0
        for unique in (first, again, written):
            kernel.answer(unique, error=2)
            kernel.receive()
        # What was answered is nobody's any more.
        assert kernel.mux.take_request(fuse.OPEN, 1, 11) == 0


def test_what_takes_servers_down_is_refused() -> None:
    """A request that three servers did not answer is sent again, and not tried a fourth time."""
    unique = 1 << 63 | 2
    assert LEDGER_BYTES == estate.LEDGER_BYTES
    ledger = estate.new_ledger()
    try:
        for _ in range(2):
            with fake_kernel(ledger=ledger) as kernel:
                kernel.send(fuse.LOOKUP, b"name\0", unique)
                assert kernel.passed_on().unique == unique
                answered = kernel.send(fuse.LOOKUP, b"other\0", unique + 2)
                kernel.passed_on()
                kernel.answer(answered, error=errno.ENOENT)
                kernel.receive()
                assert kernel.mux.stats()["resent"] == 2
        for pid in (7, 8):
            with fake_kernel(ledger=ledger) as kernel:
                kernel.send(fuse.LOOKUP, b"name\0", unique, pid=pid)
                if pid == 8:
                    # It was answered then: if the number comes again, it is another request.
                    assert kernel.passed_on().unique == unique
                    continue
                request = extra_requests.parse(kernel.extra.recv(4096))
                assert request == extra_requests.Refused(unique, 1, 0, 0, pid, fuse.LOOKUP)
                kernel.mux.reply(extra_requests.error_reply(unique, errno.EIO))
                assert kernel.receive() == (unique, errno.EIO, b"")
                assert kernel.mux.stats()["refused"] == 1
    finally:
        os.close(ledger)


@pytest.fixture
def ledger() -> Iterator[int]:
    descriptor = estate.new_ledger()
    yield descriptor
    os.close(descriptor)


def refusing(ledger: int, opcode: int, body: bytes, *, killed: bool = False) -> int:
    """Send a request to servers that end with it; return how many had it before it is refused.

    0 where none refuses it.
    """
    for number in range(1, 10):
        with fake_kernel(ledger=ledger, killed=killed) as kernel:
            kernel.send(opcode, body, RESENT | 2)
            ends = [kernel.extra, kernel.pyfuse3]
            if select.select(ends, [], [], fuse.TIMEOUT_S)[0] == [kernel.extra]:
                return number
    return 0


def test_a_request_under_which_servers_were_killed_is_less_suspect(ledger: int) -> None:
    """Somebody may kill them whatever they are about; but the kernel does where memory ends."""
    assert refusing(ledger, fuse.LOOKUP, b"name\0", killed=True) == 6


def test_what_closes_a_file_is_not_refused(ledger: int) -> None:
    """The kernel forgets the file all the same, and it would be open to the end of the mount."""
    release = struct.pack("=QIIQ", FH, 0, 0, 0)
    assert refusing(ledger, fuse.RELEASE, release) == refusing(ledger, RELEASEDIR, release) == 0


def test_what_a_server_lives_with_is_not_suspect_any_more(ledger: int) -> None:
    """Nor has it room from others whose callers are gone, and that nobody sends again."""
    for _ in range(2):
        with fake_kernel(ledger=ledger) as kernel:
            for number in range(2 * LEDGER_BYTES // 16):
                kernel.send(fuse.LOOKUP, b"name\0", RESENT | 2 * (number + 2))
                kernel.passed_on()
            kernel.mux.acquit()
    assert refusing(ledger, fuse.LOOKUP, b"name\0") == 3
