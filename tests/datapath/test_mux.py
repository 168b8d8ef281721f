"""The multiplexer between real images, and a kernel and a pyfuse3 played by the test."""

from __future__ import annotations

import errno
import os
import select
import struct
from typing import TYPE_CHECKING

import pytest

from rbdfs.kernel import extra_requests
from tests.datapath.conftest import SIZE
from tests.support import fake_kernel as fuse
from tests.support.conditions import eventually
from tests.support.fake_kernel import FakeKernel, fake_kernel, read_body, write_body

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rbdfs.datapath.native import Image

FH, OTHER_FH = 7, 8
WRITE_OUT = struct.Struct("=I4x")


@pytest.fixture
def kernel(image: Image) -> Iterator[FakeKernel]:
    """With FH on the whole image."""
    with fake_kernel() as kernel:
        kernel.mux.register(FH, image, 0, SIZE, readable=True, writable=True)
        yield kernel


def test_written_data_is_read_back(kernel: FakeKernel, image: Image) -> None:
    data = os.urandom(1 << 20)
    for offset, size in ((0, 512), (4096, 4096), (65536, 40000), (2 << 20, 1 << 20)):
        reply = kernel.write(FH, offset, data[:size])
        assert (reply.error, reply.payload) == (0, WRITE_OUT.pack(size))
        assert kernel.read(FH, offset, size).payload == data[:size]
    assert kernel.fsync(FH).error == 0
    assert kernel.flush(FH).error == 0
    assert kernel.write(FH, 0, b"x" * 512, os.O_DSYNC).payload == WRITE_OUT.pack(512)
    stats = kernel.mux.stats()
    assert (stats["writes"], stats["reads"], stats["passed_on"]) == (5, 4, 0)


def test_read_is_clamped_at_the_end(kernel: FakeKernel) -> None:
    assert len(kernel.read(FH, SIZE - 100, 4096).payload) == 100
    for offset in (SIZE, SIZE + 1, 1 << 62, (1 << 64) - 1):
        assert kernel.read(FH, offset, 4096)[1:] == (0, b"")


def test_part_of_an_image_is_a_file(kernel: FakeKernel, image: Image) -> None:
    kernel.mux.register(OTHER_FH, image, 1 << 20, 4096, readable=True, writable=True)
    kernel.write(OTHER_FH, 1024, b"part")
    assert kernel.read(FH, (1 << 20) + 1024, 4).payload == b"part"
    assert len(kernel.read(OTHER_FH, 0, 65536).payload) == 4096
    kernel.send(fuse.WRITE, write_body(OTHER_FH, 4093, b"past"))
    assert kernel.passed_on().opcode == fuse.WRITE
    kernel.mux.set_length(OTHER_FH, 8192)
    assert kernel.write(OTHER_FH, 4093, b"past").error == 0
    assert len(kernel.read(OTHER_FH, 0, 65536).payload) == 8192


@pytest.mark.parametrize("size", [512, 1 << 20])
def test_write_across_the_end_goes_to_pyfuse3(kernel: FakeKernel, size: int) -> None:
    body = write_body(FH, SIZE - 100, bytes(size))
    unique = kernel.send(fuse.WRITE, body)
    assert kernel.passed_on() == (fuse.WRITE, unique, body)
    kernel.answer(unique, WRITE_OUT.pack(100))
    assert kernel.receive() == (unique, 0, WRITE_OUT.pack(100))


def test_what_a_handle_does_not_allow_is_passed_on(kernel: FakeKernel, image: Image) -> None:
    kernel.mux.register(10, image, 0, SIZE, readable=True, writable=False)
    kernel.mux.register(11, image, 0, SIZE, readable=False, writable=True)
    for opcode, body in (
        (fuse.WRITE, write_body(10, 0, b"data")),
        (fuse.WRITE, write_body(12, 0, b"data")),
        (fuse.FSYNC, struct.pack("=QII", 12, 0, 0)),
        (fuse.FLUSH, struct.pack("=QIIQ", 12, 0, 0, 0)),
        (fuse.GETATTR, bytes(16)),
        (1000, b"unknown"),
    ):
        unique = kernel.send(opcode, body)
        assert kernel.passed_on() == (opcode, unique, body)
        kernel.answer(unique, error=errno.EBADF)
        assert kernel.receive() == (unique, errno.EBADF, b"")
    for fh in (11, 12):
        unique = kernel.send(fuse.READ, body := read_body(fh, 0, 512))
        assert kernel.passed_to_python() == (fuse.READ, unique, body)
        kernel.mux.reply(extra_requests.error_reply(unique, errno.EBADF))
        assert kernel.receive() == (unique, errno.EBADF, b"")
    kernel.mux.drain(fuse.TIMEOUT_S)


def test_image_closes_only_without_handles(kernel: FakeKernel, image: Image) -> None:
    with pytest.raises(OSError, match="close .*: ") as caught:
        image.close(5.0)
    assert caught.value.errno == errno.EBUSY
    assert kernel.read(FH, 0, 512).error == 0
    kernel.mux.unregister(FH)
    image.close(5.0)


def test_close_waits_for_requests_of_a_handle_that_is_gone(
    kernel: FakeKernel, image: Image
) -> None:
    """As when an image is opened anew under its readers."""
    uniques = [kernel.send(fuse.READ, read_body(FH, 4096 * i, 4096)) for i in range(64)]
    eventually(lambda: kernel.mux.stats()["reads"] == len(uniques))
    kernel.mux.unregister(FH)
    image.close(5.0)
    replies = [kernel.receive() for _ in uniques]
    assert {reply.unique for reply in replies} == set(uniques)
    assert {reply.error for reply in replies} == {0}
    with pytest.raises(OSError, match="closed"):
        kernel.mux.register(FH, image, 0, 512, readable=True, writable=False)


def test_registration_is_checked(kernel: FakeKernel, image: Image) -> None:
    with pytest.raises(FileExistsError):
        kernel.mux.register(FH, image, 0, 512, readable=True, writable=False)
    with pytest.raises(ValueError, match="range"):
        kernel.mux.register(9, image, 1 << 62, 1 << 62, readable=True, writable=False)
    with pytest.raises(FileNotFoundError):
        kernel.mux.set_length(9, 512)
    with pytest.raises(OSError, match="length") as caught:
        kernel.mux.set_length(FH, (1 << 64) - 1)
    assert caught.value.errno == errno.EINVAL


def test_many_handles(kernel: FakeKernel, image: Image) -> None:
    fhs = range(1000, 4000)
    for fh in fhs:
        kernel.mux.register(fh, image, fh * 512, 512, readable=True, writable=True)
    for fh in fhs[::100]:
        kernel.write(fh, 0, b"%08d" % fh)
    for fh in fhs[::100]:
        assert kernel.read(FH, fh * 512, 8).payload == b"%08d" % fh
    for fh in fhs:
        assert kernel.mux.unregister(fh)


def test_full_socket_to_pyfuse3_stops_nobody_else(kernel: FakeKernel) -> None:
    waiting = [kernel.send(fuse.LOOKUP, bytes(1000)) for _ in range(5000)]
    assert kernel.read(FH, 0, 512).error == 0
    assert [kernel.passed_on().unique for _ in waiting] == waiting


def test_what_pyfuse3_does_not_know_goes_to_python(kernel: FakeKernel) -> None:
    body = struct.pack("=QQII", FH, 4096, os.SEEK_DATA, 0)
    unique = kernel.send(fuse.LSEEK, body)
    assert kernel.passed_to_python() == (fuse.LSEEK, unique, body)
    with pytest.raises(OSError, match="reply"):
        kernel.mux.reply(b"short")
    reply = extra_requests.error_reply(unique, errno.ENXIO)
    kernel.mux.reply(reply)
    assert kernel.receive() == (unique, errno.ENXIO, b"")
    with pytest.raises(FileNotFoundError):
        kernel.mux.reply(reply)
    kernel.send(fuse.FALLOCATE, struct.pack("=QQQII", FH, 0, 512, 3, 0))
    assert kernel.passed_to_python().opcode == fuse.FALLOCATE
    kernel.send(fuse.COPY_FILE_RANGE, struct.pack("=7Q", FH, 0, 1, FH, 0, 512, 0))
    assert kernel.passed_to_python().opcode == fuse.COPY_FILE_RANGE


def test_resent_requests_are_answered_with_their_number(kernel: FakeKernel) -> None:
    for unique in (1 << 63 | 2, (1 << 64) - 2):
        kernel.send(fuse.READ, read_body(FH, 0, 512), unique)
        assert kernel.receive() == (unique, 0, bytes(512))


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (b"", None),
        (bytes(39), None),
        (fuse.IN.pack(41, fuse.READ, 2, 1, 0, 0, 0, 0, 0), errno.EIO),
        (fuse.IN.pack(40, fuse.READ, 2, 1, 0, 0, 0, 0, 0), errno.EINVAL),
        (fuse.IN.pack(40, fuse.WRITE, 2, 1, 0, 0, 0, 0, 0), errno.EINVAL),
        (fuse.IN.pack(40, fuse.FSYNC, 2, 1, 0, 0, 0, 0, 0), errno.EINVAL),
        (fuse.IN.pack(40, fuse.RELEASE, 2, 1, 0, 0, 0, 0, 0), errno.EINVAL),
        (fuse.IN.pack(40, fuse.LSEEK, 2, 1, 0, 0, 0, 0, 0), errno.EINVAL),
        (fuse.IN.pack(41, fuse.FORGET, 2, 1, 0, 0, 0, 0, 0), None),
        (fuse.IN.pack(40, fuse.INTERRUPT, 3, 1, 0, 0, 0, 0, 0), None),
        (
            fuse.IN.pack(80, fuse.READ, 2, 1, 0, 0, 0, 0, 0) + read_body(FH, 0, (1 << 20) + 1),
            errno.EINVAL,
        ),
        (
            fuse.IN.pack(80, fuse.WRITE, 2, 1, 0, 0, 0, 0, 0) + read_body(FH, 0, 0xFFFFFFFF),
            errno.EINVAL,
        ),
    ],
)
def test_malformed_message(kernel: FakeKernel, message: bytes, error: int | None) -> None:
    if message:
        kernel.device.send(message)
    if error:
        assert kernel.receive() == (2, error, b"")
    assert kernel.read(FH, 0, 512) == (2, 0, bytes(512))
    assert kernel.mux.stats()["malformed"] == (1 if message else 0)


def test_notification_is_written_to_the_device(kernel: FakeKernel) -> None:
    message = fuse.OUT.pack(fuse.OUT.size + 24, 2, 0) + struct.pack("=Qqq", 5, 0, 0)
    kernel.pyfuse3.send(message)
    assert kernel.device.recv(100) == message


def test_without_pyfuse3_its_requests_fail(kernel: FakeKernel) -> None:
    kernel.pyfuse3.close()
    assert kernel.ask(fuse.LOOKUP, b"name\0").error == errno.EIO
    kernel.send(fuse.FORGET, bytes(8))
    assert kernel.read(FH, 0, 512).error == 0
    assert kernel.mux.stats()["undelivered"] == 2


def test_end_of_the_connection_is_told(image: Image) -> None:
    with fake_kernel() as kernel:
        kernel.mux.register(FH, image, 0, SIZE, readable=True, writable=True)
        assert kernel.mux.ended == 0
        assert not select.select([kernel.mux], [], [], 0)[0]
        kernel.device.close()
        assert select.select([kernel.mux], [], [], fuse.TIMEOUT_S)[0]
        assert kernel.mux.ended == errno.ENODEV


def test_drain_waits_for_pyfuse3(kernel: FakeKernel) -> None:
    lookup = kernel.send(fuse.LOOKUP, b"name\0")
    kernel.passed_on()
    with pytest.raises(TimeoutError, match="1 elsewhere"):
        kernel.mux.drain(0.2)
    kernel.answer(lookup, error=errno.ENOENT)
    kernel.mux.drain(fuse.TIMEOUT_S)
    # The kernel keeps what is not read for the next server.
    kernel.send(fuse.LOOKUP, b"name\0")
    assert kernel.is_quiet(kernel.pyfuse3)


def test_a_durable_write_goes_to_python_with_its_flag(kernel: FakeKernel) -> None:
    """Past the end, or of a file that grows: pyfuse3 would not tell of RWF_DSYNC."""
    for fh, offset, size in ((FH, SIZE - 512, 1 << 20), (OTHER_FH, 0, 4096)):
        data = os.urandom(size)
        unique = kernel.send(fuse.WRITE, write_body(fh, offset, data, os.O_DSYNC))
        request = extra_requests.parse(kernel.extra.recv(2 << 20))
        assert isinstance(request, extra_requests.DurableWrite)
        assert (request.unique, request.fh, request.offset) == (unique, fh, offset)
        assert request.data == data
        kernel.mux.reply(extra_requests.write_reply(request, 512))
        assert kernel.receive() == (unique, 0, WRITE_OUT.pack(512))
