"""What the data path counts, on a librbd that holds requests, lets them go, or fails."""

from __future__ import annotations

import errno
import mmap
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from rbdfs.keeper.estate import new_meters
from rbdfs.model import meters, meters_layout
from rbdfs.model.metering import Metering
from tests.support import fake_kernel as fuse
from tests.support.conditions import eventually
from tests.support.fake_kernel import FakeKernel, fake_kernel, read_body
from tests.support.fake_librbd import SIZE, Call, FakeLibrbd

if TYPE_CHECKING:
    from collections.abc import Iterator

FH = 7


class Metered:
    """Memory of meters, and a kernel whose file FH is counted in it."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.memory = mmap.mmap(descriptor, meters_layout.BYTES)
        self.number = Metering(self.memory).number("rbd/vm1")

    def operation(self, name: str) -> meters.OperationMeters:
        return meters.Snapshot.of(self.memory).images["rbd/vm1"].operations[name]

    @contextmanager
    def kernel(self, librbd: FakeLibrbd) -> Iterator[FakeKernel]:
        with (
            librbd.image() as image,
            fake_kernel(mux_class=librbd.native.Mux, meters=self.descriptor) as kernel,
        ):
            options: dict[str, Any] = {"readable": True, "writable": True, "meter": self.number}
            kernel.mux.register(FH, image, 0, SIZE, **options)
            yield kernel


@pytest.fixture
def metered() -> Iterator[Metered]:
    descriptor = new_meters()
    try:
        yield Metered(descriptor)
    finally:
        os.close(descriptor)


def test_each_request_is_counted_once(librbd: FakeLibrbd, metered: Metered) -> None:
    with metered.kernel(librbd) as kernel:
        for _ in range(3):
            assert len(kernel.read(FH, 0, 4096).payload) == 4096
        kernel.read(FH, SIZE, 4096)
        kernel.write(FH, 512, b"x" * 1024)
        kernel.flush(FH)
        kernel.flush(FH)
        kernel.fsync(FH)
    read, write = metered.operation("read"), metered.operation("write")
    assert (read.count, read.bytes, read.in_flight, read.errors) == (4, 3 * 4096, 0, {})
    assert (write.count, write.bytes) == (1, 1024)
    assert (metered.operation("close").count, metered.operation("flush").count) == (2, 1)
    assert 0 < read.sum_s < 60
    assert meters.Snapshot.of(metered.memory).answered_ns > 0


def test_in_flight(librbd: FakeLibrbd, metered: Metered) -> None:
    with metered.kernel(librbd) as kernel:
        with librbd.held():
            for _ in range(300):
                kernel.send(fuse.READ, read_body(FH, 0, 512))
            # More than librbd has at a time: what is parked waits as well.
            eventually(lambda: metered.operation("read").in_flight == 300, what="they wait")
            assert metered.operation("read").count == 0
        for _ in range(300):
            kernel.receive()
        read = metered.operation("read")
        assert (read.in_flight, read.count) == (0, 300)


def test_errors_are_counted_as_they_are_answered(librbd: FakeLibrbd, metered: Metered) -> None:
    with metered.kernel(librbd) as kernel:
        librbd.answer(Call.WRITE, errno.ENOSPC)
        assert kernel.write(FH, 0, b"x").error == errno.ENOSPC
        librbd.answer(Call.READ, errno.ESHUTDOWN)
        assert kernel.read(FH, 0, 512).error == errno.ESHUTDOWN
        librbd.answer(Call.READ, 0)
        # The image has failed.
        assert kernel.read(FH, 0, 512).error == errno.ESHUTDOWN
    write, read = metered.operation("write"), metered.operation("read")
    assert (write.count, write.bytes, write.errors) == (1, 0, {"ENOSPC": 1})
    assert (read.count, read.bytes, read.errors) == (2, 0, {"ESHUTDOWN": 2})


def test_memory_of_another_version_is_refused(librbd: FakeLibrbd, metered: Metered) -> None:
    metered.memory[8] = 99
    with pytest.raises(OSError, match=r".") as caught, metered.kernel(librbd):
        pass
    assert caught.value.errno == errno.EPROTO
