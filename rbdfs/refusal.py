"""The last resort: a mount without a server, on which every request fails at once."""

from __future__ import annotations

import errno
import os
import struct

# linux/fuse.h
_IN_HEADER = struct.Struct("=IIQQIIIHH")
_OUT_HEADER = struct.Struct("=IiQ")
_NOTIFY_RESEND = 7
_WITHOUT_REPLY = frozenset({2, 36, 41, 42})  # FORGET, INTERRUPT, NOTIFY_REPLY, BATCH_FORGET
_REQUEST_BYTES = (1 << 20) + 8192


def resend_requests(descriptor: int) -> None:
    """Have the kernel send again what a dead server had read and not answered (Linux 6.9).

    Raises OSError EINVAL from an older kernel.
    """
    os.write(descriptor, _OUT_HEADER.pack(_OUT_HEADER.size, _NOTIFY_RESEND, 0))


def refuse_everything(descriptor: int) -> None:
    """Answer every request on *descriptor* with EIO, until the mount is over."""
    resend_requests(descriptor)
    while True:
        try:
            message = os.read(descriptor, _REQUEST_BYTES)
            _, opcode, unique, *_ = _IN_HEADER.unpack_from(message)
            if opcode not in _WITHOUT_REPLY:
                os.write(descriptor, _OUT_HEADER.pack(_OUT_HEADER.size, -errno.EIO, unique))
        except OSError as exc:
            if exc.errno == errno.ENODEV:
                return
            # ENOENT: the caller of the request is gone.
            if exc.errno not in (errno.ENOENT, errno.EINTR, errno.EAGAIN):
                raise
