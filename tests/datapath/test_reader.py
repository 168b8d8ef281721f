"""Reading the device: its errors, its end, and the order in which a connection is handed over."""

from __future__ import annotations

import errno
import select
import shutil
import struct
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from rbdfs.datapath import native
from tests.support import fake_kernel as fuse
from tests.support.conditions import eventually
from tests.support.fake_kernel import FakeKernel, fake_kernel, read_body

if TYPE_CHECKING:
    from collections.abc import Iterator

LOOKUP_FORGETS = 42


@contextmanager
def unreadable(kernel: FakeKernel) -> Iterator[None]:
    """Have every read of the device fail for the time of the context; a LOOKUP waits after it."""
    with kernel.broken_device():
        # The reader waits in the device itself; what it finds when it wakes is the other one.
        kernel.send(fuse.LOOKUP, b"name\0")
        yield


def test_a_read_that_fails_does_not_end_the_mount() -> None:
    """A page that the kernel cannot have for a request, say: it answers that one by itself."""
    with fake_kernel() as kernel:
        with unreadable(kernel):
            eventually(lambda: kernel.mux.stats()["read_errors"] >= 2, what="reads that fail")
            assert kernel.mux.ended == 0
        assert kernel.passed_on().opcode == fuse.LOOKUP
        assert not select.select([kernel.mux], [], [], 0)[0]


def test_a_device_that_cannot_be_read_ends_the_server_with_its_error() -> None:
    with fake_kernel() as kernel:
        with unreadable(kernel):
            assert select.select([kernel.mux], [], [], fuse.TIMEOUT_S)[0]
        assert kernel.mux.ended == errno.EISDIR


def test_who_stops_does_not_wait_for_the_queue_to_be_empty() -> None:
    with fake_kernel(start=False) as kernel:
        for _ in range(100):
            kernel.send(fuse.READ, read_body(1, 0, 512))
        kernel.mux.drain(fuse.TIMEOUT_S)
        kernel.mux.start()
        assert kernel.is_quiet(kernel.pyfuse3)
        assert kernel.mux.stats()["passed_on"] == 0


def test_a_message_is_no_longer_than_what_pyfuse3_takes() -> None:
    """The kernel cuts a BATCH_FORGET to what is asked for: a socket of a user takes no megabyte."""
    with fake_kernel(max_write=65536) as kernel:
        body = struct.pack("=II", 10_000, 0) + bytes(160_000)
        kernel.send(LOOKUP_FORGETS, body)
        lookup = kernel.send(fuse.LOOKUP, b"name\0")
        assert kernel.passed_on().unique == lookup
        assert kernel.mux.stats()["malformed"] == 1


def test_a_notification_that_waits_is_delivered_before_reading_ends() -> None:
    """It may wait for a page that only the answer to another request unlocks."""
    notification = fuse.OUT.pack(fuse.OUT.size + 1000, 2, 0) + bytes(1000)
    with fake_kernel() as kernel:
        # Until the device, a socket here, is full.
        count = 5000
        for _ in range(count):
            kernel.pyfuse3.send(notification)
        with pytest.raises(TimeoutError):
            kernel.mux.drain(0.2)
        lookup = kernel.send(fuse.LOOKUP, b"name\0")
        assert kernel.passed_on().unique == lookup
        for _ in range(count):
            assert kernel.device.recv(2000) == notification
        kernel.answer(lookup, error=errno.ENOENT)
        kernel.receive()
        kernel.mux.drain(fuse.TIMEOUT_S)


def test_the_extension_is_hardened() -> None:
    """Its tables of functions cannot be written, and an overrun of the stack ends the process."""
    if shutil.which("readelf") is None:
        pytest.skip("readelf is not installed (binutils)")

    def readelf(option: str) -> str:
        command = ["readelf", "-W", option, native.__file__]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    assert "BIND_NOW" in readelf("--dynamic")
    segments = readelf("--segments")
    assert "GNU_RELRO" in segments
    (stack,) = (line for line in segments.splitlines() if "GNU_STACK" in line)
    assert "RWE" not in stack
    assert "__stack_chk_fail" in readelf("--dyn-syms")
