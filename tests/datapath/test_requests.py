"""The requests of an image in every state: on a librbd that holds them, lets them go, or fails."""

from __future__ import annotations

import errno
import os
import select
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import fake_kernel as fuse
from tests.support.conditions import eventually
from tests.support.fake_kernel import FakeKernel, fake_kernel, read_body, write_body
from tests.support.fake_librbd import SIZE, Call, FakeLibrbd

if TYPE_CHECKING:
    from collections.abc import Iterator

FH, OTHER_FH = 7, 8


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


def send_reads(kernel: FakeKernel, count: int, fh: int = FH) -> list[int]:
    """Send so many, and wait until they are under way or parked."""
    before = kernel.mux.stats()["active"]
    uniques = [kernel.send(fuse.READ, read_body(fh, 0, 512)) for _ in range(count)]
    eventually(lambda: kernel.mux.stats()["active"] == before + count, what="the reads wait")
    return uniques


def test_release_follows_the_last_request(
    kernel: FakeKernel, image: Any, librbd: FakeLibrbd
) -> None:
    with librbd.held():
        (read,) = send_reads(kernel, 1)
        release = kernel.send_release(FH)
        assert kernel.is_quiet(kernel.pyfuse3)
        # The number may name another file by now.
        kernel.mux.register(FH, image, 4096, 512, readable=True, writable=False)
    assert kernel.receive().unique == read
    assert kernel.passed_on()[:2] == (fuse.RELEASE, release)
    assert kernel.mux.unregister(FH)
    assert not kernel.mux.unregister(FH)
    kernel.answer(release)
    kernel.receive()
    assert kernel.mux.stats()["registered"] == 0


def test_stuck_image_stops_no_other_request(kernel: FakeKernel, librbd: FakeLibrbd) -> None:
    """librbd has 256 of them at a time, and gets the rest in the order in which it came."""
    with librbd.held():
        stuck = send_reads(kernel, 2000)
        assert librbd.count(Call.READ) == 256
        lookup = kernel.send(fuse.LOOKUP, b"name\0")
        assert kernel.passed_on().unique == lookup
    assert [kernel.receive().unique for _ in stuck] == stuck


@pytest.mark.parametrize("error", [errno.ESHUTDOWN, errno.ETIMEDOUT])
def test_final_error_is_the_answer_to_all(
    kernel: FakeKernel, image: Any, librbd: FakeLibrbd, error: int
) -> None:
    """To what librbd has, what is parked, what comes; and librbd's late results go nowhere."""
    with librbd.held():
        waiting = send_reads(kernel, 300)
        librbd.answer(Call.WRITE, error, at_once=True)
        # It is parked, and so fails only when the first read is complete.
        waiting.append(kernel.send(fuse.WRITE, write_body(FH, 0, b"data")))
    replies = {kernel.receive().unique for _ in waiting}
    assert replies == set(waiting)
    assert image.failed == error
    librbd.answer(Call.WRITE, 0)
    assert kernel.read(FH, 0, 512).error == error
    assert kernel.write(FH, 0, b"data").error == error
    assert kernel.fsync(FH).error == error
    with pytest.raises(OSError, match="request of") as caught:
        image.aio_flush(print)
    assert caught.value.errno == error
    assert kernel.is_quiet(kernel.device)


def test_failing_answers_what_librbd_has(kernel: FakeKernel, librbd: FakeLibrbd) -> None:
    """At once, while it still may write: so RELEASE waits for it."""
    with librbd.held():
        unique = kernel.send(fuse.WRITE, write_body(FH, 0, b"data"))
        eventually(lambda: librbd.count(Call.WRITE), what="the write is under way")
        librbd.answer(Call.READ, errno.ETIMEDOUT, at_once=True)
        read = kernel.send(fuse.READ, read_body(FH, 0, 512))
        replies = {kernel.receive()[:2] for _ in range(2)}
        assert replies == {(unique, errno.ETIMEDOUT), (read, errno.ETIMEDOUT)}
        release = kernel.send_release(FH)
        assert kernel.is_quiet(kernel.pyfuse3)
    assert kernel.passed_on().unique == release
    assert kernel.is_quiet(kernel.device)


def test_stop_waits_for_the_requests(kernel: FakeKernel, librbd: FakeLibrbd) -> None:
    with librbd.held():
        send_reads(kernel, 1)
        with pytest.raises(TimeoutError, match="1 requests in librbd"):
            kernel.mux.stop(0.2)
    kernel.mux.stop(fuse.TIMEOUT_S)
    assert kernel.mux.stats()["registered"] == 0
    assert kernel.receive().payload == bytes(512)


def test_limits_of_the_settings(librbd: FakeLibrbd, image: Any) -> None:
    mux_class = librbd.native.Mux
    with fake_kernel(mux_class=mux_class, image_requests=100, image_bytes=1) as kernel:
        kernel.mux.register(FH, image, 0, SIZE, readable=True, writable=True)
        with librbd.held():
            sent = send_reads(kernel, 50)
            assert librbd.count(Call.READ) == 1
        assert [kernel.receive().unique for _ in sent] == sent
    with fake_kernel(mux_class=mux_class, image_requests=2) as kernel:
        kernel.mux.register(FH, image, 0, SIZE, readable=True, writable=True)
        with librbd.held():
            send_reads(kernel, 50)
            assert librbd.count(Call.READ) == 50 + 2


@pytest.mark.parametrize("dirty", [False, True])
def test_a_file_that_is_registered_again_is_as_dirty_as_before(
    kernel: FakeKernel, librbd: FakeLibrbd, image: Any, dirty: bool
) -> None:
    """close(2) flushes what Python has written, or what was written before a move."""
    kernel.mux.unregister(FH)
    kernel.mux.register(FH, image, 0, SIZE, readable=True, writable=True, dirty=dirty)
    for _ in range(2):
        assert kernel.flush(FH).error == 0
    assert librbd.count(Call.FLUSH) == dirty


@pytest.mark.parametrize("call", [Call.READ, Call.WRITE, Call.FLUSH])
@pytest.mark.parametrize("at_once", [False, True])
def test_many_that_fail_at_once_free_their_turns(
    kernel: FakeKernel, librbd: FakeLibrbd, call: Call, at_once: bool
) -> None:
    """Parked ones follow those that librbd does not even take; and nothing is left over."""
    bodies = {
        Call.READ: (fuse.READ, read_body(FH, 0, 512)),
        Call.WRITE: (fuse.WRITE, write_body(FH, 0, b"data")),
        Call.FLUSH: (fuse.FSYNC, struct.pack("=QII", FH, 0, 0)),
    }
    with librbd.held():
        waiting = [kernel.send(*bodies[call]) for _ in range(1000)]
        eventually(lambda: kernel.mux.stats()["active"] == 1000, what="all wait")
        librbd.answer(call, errno.EIO, at_once=at_once)
    replies = [kernel.receive() for _ in waiting]
    assert {reply.unique for reply in replies} == set(waiting)
    failed = [reply.error for reply in replies].count(errno.EIO)
    assert failed == (1000 - 256 if at_once else 1000)
    assert kernel.mux.stats()["errors"] == failed


def test_a_client_begins_with_the_latest_map(librbd: FakeLibrbd) -> None:
    """A server that was fenced before must not write any more, whichever monitor was asked."""
    with librbd.native.Client("admin") as client:
        client.connect()
        assert librbd.count(Call.OTHER) == 1
    librbd.answer(Call.OTHER, errno.ETIMEDOUT)
    with librbd.native.Client("admin") as client, pytest.raises(TimeoutError, match="latest map"):
        client.connect()


def test_python_holds_up_no_answer_to_the_kernel(
    kernel: FakeKernel, image: Any, librbd: FakeLibrbd
) -> None:
    """librbd has few threads for all its images: none of them waits for the GIL."""
    called: list[int] = []
    with librbd.held():
        image.aio_flush(lambda completion: called.append(completion.get_return_value()))
        (unique,) = send_reads(kernel, 1)
        librbd.release_keeping_python(0.3)
        answered, _, _ = select.select([kernel.device], [], [], 0)
        assert answered
    assert kernel.receive() == (unique, 0, bytes(512))
    assert called == []
    image.ioctx.client.run_callbacks()
    assert called == [0]


def test_callbacks_are_called_in_their_order(librbd: FakeLibrbd, image: Any) -> None:
    called: list[int] = []
    client = image.ioctx.client
    with librbd.held():
        for i in range(1000):
            image.aio_read(i * 512, 512, lambda *_, i=i: called.append(i))
        assert not select.select([client], [], [], 0)[0]
    while len(called) < 1000:
        assert select.select([client], [], [], fuse.TIMEOUT_S)[0]
        client.run_callbacks()
    assert called == list(range(1000))
    assert not select.select([client], [], [], 0)[0]


def test_callbacks_that_wait_are_called_before_the_end(librbd: FakeLibrbd) -> None:
    called: list[str] = []
    with librbd.image() as image:
        image.aio_flush(lambda *_: called.append("flushed"))
        image.close()
        assert called == []
    assert called == ["flushed"]


def resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("size", [65536, 192 << 10, 1 << 20])
def test_memory_is_that_of_the_data(
    kernel: FakeKernel, image: Any, librbd: FakeLibrbd, size: int
) -> None:
    """While a cluster does not answer, as much is kept as writers have handed over, and no more."""
    count = (96 << 20) // size
    data = bytes(size)
    before = resident_bytes()
    with librbd.held():
        for _ in range(count):
            kernel.send(fuse.WRITE, write_body(FH, 0, data))
        eventually(lambda: kernel.mux.stats()["active"] == count, what="all wait")
        used = resident_bytes() - before
        # What waits for its turn to be read needs no memory yet.
        kernel.mux.register(OTHER_FH, image, 0, SIZE, readable=True, writable=True)
        for _ in range(count):
            kernel.send(fuse.READ, read_body(OTHER_FH, 0, size))
        eventually(lambda: kernel.mux.stats()["active"] == 2 * count, what="all wait")
        assert resident_bytes() - before < used + (8 << 20)
    for _ in range(2 * count):
        assert kernel.receive().error == 0
    # The first large blocks are of a huge page each.
    assert used < (96 << 20) * 5 // 4 + (64 << 20)
    assert resident_bytes() - before < 96 << 20


def test_an_image_is_closed_beside_calls_on_it(librbd: FakeLibrbd) -> None:
    """A call that has begun keeps it; one that comes later is refused."""
    with librbd.image() as first, ThreadPoolExecutor(4) as threads:
        for _ in range(100):
            image = librbd.native.Image(first.ioctx, "image")
            calls = [threads.submit(image.size) for _ in range(8)]
            image.close(fuse.TIMEOUT_S)
            for call in calls:
                error = call.exception()
                assert error is None or getattr(error, "errno", 0) == errno.EBADF


def test_interrupts_do_not_look_through_all_files(
    kernel: FakeKernel, image: Any, librbd: FakeLibrbd
) -> None:
    """A program with a timer has many of them: with 5000 files open, each took as many locks."""
    for fh in range(1000, 6000):
        kernel.mux.register(fh, image, 0, SIZE, readable=True, writable=True)
    with librbd.held():
        reads = send_reads(kernel, 1000)
        began = time.monotonic()
        for unique in range(1 << 40, (1 << 40) + 2000, 2):
            kernel.send(fuse.INTERRUPT, struct.pack("=Q", unique), unique | 1)
        # The reader takes one message after the other.
        lookup = kernel.send(fuse.LOOKUP, b"name\0")
        assert kernel.passed_on().unique == lookup
        assert time.monotonic() - began < 2
    assert len({kernel.receive().unique for _ in reads}) == 1000
