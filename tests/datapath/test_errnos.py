"""Each errno that librbd may return, as the answer to each request that the data path serves."""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING

import pytest

from rbdfs.fuse.answers import answered
from tests.support import fake_kernel as fuse
from tests.support.fake_kernel import fake_kernel, read_body, write_body
from tests.support.fake_librbd import SIZE, Call, FakeLibrbd

if TYPE_CHECKING:
    from tests.support.fake_kernel import FakeKernel

FH = 7
ERRNOS = range(1, 134)
# For the image, until it is opened anew.
FINAL = (errno.ESHUTDOWN, errno.ETIMEDOUT)
SYNC = struct.pack("=QII", FH, 0, 0)
# What is asked of the mux, the call of librbd that fails, and the operation's name.
REQUESTS = {
    "read": (fuse.READ, read_body(FH, 0, 512), Call.READ, "read"),
    "write": (fuse.WRITE, write_body(FH, 0, b"data"), Call.WRITE, "write"),
    "write with O_DSYNC": (
        fuse.WRITE,
        write_body(FH, 0, b"data", os.O_DSYNC),
        Call.FLUSH,
        "write",
    ),
    "fsync": (fuse.FSYNC, SYNC, Call.FLUSH, "fsync"),
    "flush": (fuse.FLUSH, struct.pack("=QIIQ", FH, 0, 0, 0), Call.FLUSH, "flush"),
}


def reply(kernel: FakeKernel, opcode: int, body: bytes) -> int:
    if opcode == fuse.FLUSH:
        # It does nothing for a file that is clean.
        kernel.write(FH, 0, b"dirty")
    return kernel.ask(opcode, body).error


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("name", REQUESTS)
def test_every_errno_has_its_answer(librbd: FakeLibrbd, name: str, at_once: bool) -> None:
    opcode, body, call, operation = REQUESTS[name]
    with fake_kernel(mux_class=librbd.native.Mux) as kernel:
        for code in ERRNOS:
            # An image of its own: some errors are final for it.
            with librbd.image() as image:
                kernel.mux.register(FH, image, 0, SIZE, readable=True, writable=True)
                librbd.answer(call, code, at_once=at_once)
                assert reply(kernel, opcode, body) == answered(operation, code)
                assert image.failed == (code if code in FINAL else 0)
                librbd.answer(call, 0)
                kernel.mux.unregister(FH)


def test_every_errno_of_a_call_of_python(librbd: FakeLibrbd) -> None:
    """They keep their numbers: what leaves for the kernel is decided in fuse/."""
    with librbd.image() as image:
        for code in ERRNOS:
            librbd.answer(Call.OTHER, code)
            for call in (image.size, image.features, image.flags, image.is_exclusive_lock_owner):
                with pytest.raises(OSError, match="of pool/image") as caught:
                    call()
                assert caught.value.errno == code
            librbd.answer(Call.OPEN, code)
            with pytest.raises(OSError, match="open pool/other") as caught:
                librbd.native.Image(image.ioctx, "other")
            assert caught.value.errno == code
        librbd.reset()
