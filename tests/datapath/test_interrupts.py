"""INTERRUPT: a request that changes nothing is answered with EINTR once its caller has waited."""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING, Any

import pytest

from rbdfs.kernel import extra_requests
from tests.support import fake_kernel as fuse
from tests.support.conditions import eventually
from tests.support.fake_kernel import FakeKernel, fake_kernel, read_body, write_body
from tests.support.fake_librbd import SIZE, Call, FakeLibrbd

if TYPE_CHECKING:
    from collections.abc import Iterator

FH = 7
OPENDIR, READDIRPLUS, RELEASEDIR, GETATTR = 27, 44, 29, 3
DIRECT_IO = 1
ENTRY = struct.Struct("=Q120x")
OPEN_OUT = struct.Struct("=QII")


@pytest.fixture
def image(librbd: FakeLibrbd) -> Iterator[Any]:
    with librbd.image() as image:
        yield image


@pytest.fixture
def kernel(librbd: FakeLibrbd, image: Any) -> Iterator[FakeKernel]:
    """With FH on the whole image."""
    with fake_kernel(mux_class=librbd.native.Mux) as kernel:
        kernel.mux.register(FH, image, 0, SIZE, readable=True, writable=True)
        yield kernel


def interrupt(kernel: FakeKernel, unique: int) -> None:
    kernel.send(fuse.INTERRUPT, struct.pack("=Q", unique), unique | 1)


def give_up(kernel: FakeKernel, unique: int) -> None:
    """As Python, which is told that a request is to be given up."""
    told = extra_requests.parse(kernel.extra.recv(2 << 20))
    assert isinstance(told, extra_requests.Abandoned)
    assert told.unique == unique
    assert not kernel.mux.is_taken_over(unique)
    assert kernel.mux.take_over(unique)
    assert kernel.mux.is_taken_over(unique)
    assert not kernel.mux.take_over(unique)
    kernel.mux.interrupt(unique)


def read_direct(offset: int = 0, fh: int = FH) -> bytes:
    """The body of a READ through O_DIRECT."""
    return struct.pack("=QQIIQII", fh, offset, 512, 0, 0, os.O_DIRECT, 0)


def test_a_read_that_waits_is_interrupted(kernel: FakeKernel, librbd: FakeLibrbd) -> None:
    """After a second: a program with a timer must not get EINTR from a disk that is well.

    What librbd has completes into nothing; what is parked never begins.
    """
    with librbd.held():
        reads = [kernel.send(fuse.READ, read_direct()) for _ in range(300)]
        eventually(lambda: librbd.count(Call.READ) == 256, what="reads under way, and parked ones")
        for unique in (reads[0], reads[-1]):
            interrupt(kernel, unique)
        assert kernel.is_quiet(kernel.device)
        assert {kernel.receive() for _ in range(2)} == {
            (reads[0], errno.EINTR, b""),
            (reads[-1], errno.EINTR, b""),
        }
        assert kernel.mux.stats()["active"] == 300
    assert {kernel.receive()[:2] for _ in range(298)} == {(unique, 0) for unique in reads[1:-1]}
    eventually(lambda: kernel.mux.stats()["active"] == 0, what="the end of all requests")
    assert librbd.count(Call.READ) == 299
    assert kernel.is_quiet(kernel.device)
    assert kernel.mux.stats()["interrupted"] == 2


def test_a_page_fault_is_not_interrupted(kernel: FakeKernel, librbd: FakeLibrbd) -> None:
    """It would be SIGBUS. A file without pages in the kernel has none; a write never is."""
    with librbd.held():
        paged = kernel.send(fuse.READ, read_body(FH, 0, 512))
        written = kernel.send(fuse.WRITE, write_body(FH, 0, b"data", os.O_DIRECT))
        synced = kernel.send(fuse.FSYNC, struct.pack("=QII", FH, 0, 0))
        direct = kernel.send(fuse.READ, read_direct())
        eventually(lambda: kernel.mux.stats()["active"] == 4, what="all wait")
        for unique in (paged, written, synced, direct):
            interrupt(kernel, unique)
        assert kernel.receive()[:2] == (direct, errno.EINTR)
        assert kernel.is_quiet(kernel.device)
    assert {kernel.receive()[:2] for _ in range(3)} == {(paged, 0), (written, 0), (synced, 0)}


def test_a_page_fault_that_python_serves_is_not_interrupted(kernel: FakeKernel) -> None:
    """The file of a READ that is passed on may be frozen by a move, or not open again yet."""
    paged = kernel.send(fuse.READ, read_body(FH + 1, 0, 512))
    direct = kernel.send(fuse.READ, read_direct(fh=FH + 1))
    for unique in (paged, direct):
        assert kernel.passed_to_python().unique == unique
        interrupt(kernel, unique)
    give_up(kernel, direct)
    assert kernel.receive() == (direct, errno.EINTR, b"")
    assert kernel.is_quiet(kernel.device)
    assert kernel.is_quiet(kernel.extra)
    kernel.mux.reply(extra_requests.error_reply(direct, errno.EINTR))
    request = extra_requests.Read(paged, 1, 0, 0, 0, FH + 1, 0, 512)
    kernel.mux.reply(extra_requests.read_reply(request, b"data"))
    assert kernel.receive() == (paged, 0, b"data")


def test_a_file_that_is_registered_again_is_read_direct_still(
    kernel: FakeKernel, librbd: FakeLibrbd, image: Any
) -> None:
    """After a resize, a move or a take-over the kernel does not open it again."""
    kernel.mux.unregister(FH)
    kernel.mux.register(FH, image, 0, SIZE, readable=True, writable=True, direct=True)
    with librbd.held():
        unique = kernel.send(fuse.READ, read_body(FH, 0, 512))
        eventually(lambda: kernel.mux.stats()["active"] == 1, what="the read waits")
        interrupt(kernel, unique)
        assert kernel.receive()[:2] == (unique, errno.EINTR)


def test_a_file_that_is_opened_direct_is_read_direct(
    kernel: FakeKernel, librbd: FakeLibrbd
) -> None:
    opened = kernel.send(fuse.OPEN, struct.pack("=II", os.O_RDONLY, 0))
    kernel.passed_on()
    kernel.answer(opened, OPEN_OUT.pack(FH, DIRECT_IO, 0))
    kernel.receive()
    with librbd.held():
        unique = kernel.send(fuse.READ, read_body(FH, 0, 512))
        eventually(lambda: kernel.mux.stats()["active"] == 1, what="the read waits")
        interrupt(kernel, unique)
        assert kernel.receive()[:2] == (unique, errno.EINTR)


def interrupted(kernel: FakeKernel, opcode: int, body: bytes) -> int:
    """Send a request that pyfuse3 gets, and interrupt it: its number."""
    unique = kernel.send(opcode, body)
    assert kernel.passed_on().unique == unique
    interrupt(kernel, unique)
    give_up(kernel, unique)
    assert kernel.receive() == (unique, errno.EINTR, b"")
    return unique


def test_what_an_interrupted_lookup_counts_is_forgotten(kernel: FakeKernel) -> None:
    unique = interrupted(kernel, fuse.LOOKUP, b"name\0")
    kernel.answer(unique, ENTRY.pack(42))
    assert kernel.passed_on()[::2] == (fuse.FORGET, struct.pack("=Q", 1))
    for payload, error in ((ENTRY.pack(0), 0), (b"", errno.ENOENT)):
        unique = interrupted(kernel, fuse.LOOKUP, b"name\0")
        kernel.answer(unique, payload, error=error)
        assert kernel.is_quiet(kernel.pyfuse3)
    assert kernel.is_quiet(kernel.device)
    kernel.mux.drain(fuse.TIMEOUT_S)


def test_what_an_interrupted_listing_counts_is_forgotten(kernel: FakeKernel) -> None:
    unique = interrupted(kernel, READDIRPLUS, bytes(40))
    entries = b"".join(
        ENTRY.pack(node) + struct.pack("=QQII", node, 0, len(name), 8) + name.ljust(8, b"\0")
        for node, name in ((5, b"five"), (0, b"none"), (6, b"sixsix"))
    )
    kernel.answer(unique, entries)
    assert [kernel.passed_on().opcode for _ in range(2)] == [fuse.FORGET] * 2
    assert kernel.is_quiet(kernel.pyfuse3)
    assert kernel.is_quiet(kernel.device)


@pytest.mark.parametrize(
    ("opcode", "body", "closing"),
    [
        (fuse.OPEN, struct.pack("=II", os.O_RDWR, 0), fuse.RELEASE),
        (OPENDIR, bytes(8), RELEASEDIR),
    ],
)
def test_what_an_interrupted_open_opens_is_released(
    kernel: FakeKernel, image: Any, opcode: int, body: bytes, closing: int
) -> None:
    unique = interrupted(kernel, opcode, body)
    fh = 12
    if opcode == fuse.OPEN:
        kernel.mux.register(fh, image, 0, SIZE, readable=True, writable=True)
    kernel.answer(unique, OPEN_OUT.pack(fh, 0, 0))
    release = kernel.passed_on()
    assert (release.opcode, release.body[:8]) == (closing, struct.pack("=Q", fh))
    kernel.answer(release.unique)
    assert kernel.is_quiet(kernel.device)
    assert kernel.mux.stats()["registered"] == 1
    kernel.mux.drain(fuse.TIMEOUT_S)


def test_what_changes_something_is_never_interrupted(kernel: FakeKernel) -> None:
    requests = [
        (fuse.OPEN, struct.pack("=II", os.O_RDWR | os.O_TRUNC, 0)),
        (fuse.CREATE, struct.pack("=IIII", 0, 0, 0, 0) + b"name\0"),
        (fuse.WRITE, write_body(99, 0, b"data")),
        (10, b"unlink\0"),
    ]
    uniques = [kernel.send(opcode, body) for opcode, body in requests]
    harmless = kernel.send(GETATTR, bytes(16))
    for unique in (*uniques, harmless):
        assert kernel.passed_on().unique == unique
        interrupt(kernel, unique)
    give_up(kernel, harmless)
    assert kernel.receive()[:2] == (harmless, errno.EINTR)
    assert kernel.is_quiet(kernel.device)
    assert kernel.is_quiet(kernel.extra)
    for unique in uniques:
        kernel.answer(unique, error=errno.EPERM)
        assert kernel.receive()[:2] == (unique, errno.EPERM)


def test_a_seek_is_interrupted_and_a_hole_is_punched_to_the_end(kernel: FakeKernel) -> None:
    punched = kernel.send(fuse.FALLOCATE, struct.pack("=QQQII", FH, 0, 512, 3, 0))
    sought = kernel.send(fuse.LSEEK, struct.pack("=QQII", FH, 0, os.SEEK_DATA, 0))
    for unique in (punched, sought):
        assert kernel.passed_to_python().unique == unique
        interrupt(kernel, unique)
    give_up(kernel, sought)
    assert kernel.receive()[:2] == (sought, errno.EINTR)
    for unique in (sought, punched):
        kernel.mux.reply(extra_requests.empty_reply(unique))
    assert kernel.receive() == (punched, 0, b"")
    with pytest.raises(FileNotFoundError):
        kernel.mux.reply(extra_requests.empty_reply(sought))
    kernel.mux.drain(fuse.TIMEOUT_S)


def test_what_is_answered_meanwhile_is_not_taken_over(kernel: FakeKernel) -> None:
    """Its caller has what it opened."""
    unique = kernel.send(OPENDIR, bytes(8))
    kernel.passed_on()
    interrupt(kernel, unique)
    assert kernel.passed_to_python().unique == unique
    kernel.answer(unique, OPEN_OUT.pack(12, 0, 0))
    assert kernel.receive()[:2] == (unique, 0)
    assert not kernel.mux.take_over(unique)
    assert kernel.is_quiet(kernel.pyfuse3)
    kernel.mux.drain(fuse.TIMEOUT_S)


@pytest.mark.parametrize(
    ("opcode", "body", "known"),
    [
        (fuse.LOOKUP, b"name\0", (1, 12)),
        (fuse.STATFS, b"", (0, 12)),
        (READDIRPLUS, struct.pack("=Q32x", 7), (7, 0)),
    ],
)
def test_a_request_is_found_by_what_is_known_of_it(
    kernel: FakeKernel, opcode: int, body: bytes, known: tuple[int, int]
) -> None:
    """The oldest first, because pyfuse3 begins them in their order."""
    uniques = [kernel.send(opcode, body, pid=12) for _ in range(2)]
    for unique in uniques:
        kernel.passed_on()
        assert kernel.mux.take_request(opcode, *known) == unique
    assert kernel.mux.take_request(opcode, *known) == 0
    for unique in uniques:
        kernel.answer(unique, error=errno.EIO)
        kernel.receive()


def test_an_interrupt_that_comes_too_late_is_nothing(kernel: FakeKernel) -> None:
    interrupt(kernel, 1000)
    assert kernel.read(FH, 0, 512).error == 0
    assert kernel.is_quiet(kernel.device)
    assert kernel.is_quiet(kernel.pyfuse3)
