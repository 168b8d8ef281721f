"""FUSE messages as bytes: to have them sent again, to refuse them, and whether it is all over."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import struct

# linux/fuse.h
_IN_HEADER = struct.Struct("=IIQQIIIHH")
_OUT_HEADER = struct.Struct("=IiQ")
_FH = struct.Struct("=Q")
_NOTIFY_INVALIDATE_INODE = 2
_NOTIFY_RESEND = 7
# inode, offset and length, of which 0 is to the end
_INVALIDATE = struct.Struct("=Qqq")
# major, minor, max_readahead, flags, flags2
_INIT_IN = struct.Struct("=5I")
_INIT_EXT = 1 << 30
_HAS_RESEND = 1 << 39
_RELEASE = 18
_WITHOUT_REPLY = frozenset({2, 36, 41, 42})  # FORGET, INTERRUPT, NOTIFY_REPLY, BATCH_FORGET
_REQUEST_BYTES = (1 << 20) + 8192


def resend_requests(descriptor: int) -> None:
    """Have the kernel send again what a dead server had read and not answered (Linux 6.9).

    Raises OSError EINVAL from an older kernel.
    """
    os.write(descriptor, _OUT_HEADER.pack(_OUT_HEADER.size, _NOTIFY_RESEND, 0))


def invalidate_inode(descriptor: int, inode: int) -> None:
    """Have the kernel forget attributes and pages of *inode*; return once it has.

    It writes back first what is dirty, and so waits for the server: call it in a thread. libfuse's
    call goes through the data path, which does not wait. Raises OSError ENOENT for an inode that
    the kernel does not know.
    """
    message = _INVALIDATE.pack(inode, 0, 0)
    header = _OUT_HEADER.pack(_OUT_HEADER.size + len(message), _NOTIFY_INVALIDATE_INODE, 0)
    os.write(descriptor, header + message)


def sends_again(init_request: bytes) -> bool:
    """Tell whether the kernel that has introduced itself so knows resend_requests()."""
    if len(init_request) < _IN_HEADER.size + _INIT_IN.size:
        return False
    *_, flags, flags2 = _INIT_IN.unpack_from(init_request, _IN_HEADER.size)
    return bool(flags & _INIT_EXT and flags2 << 32 & _HAS_RESEND)


def is_over(descriptor: int) -> bool:
    """Tell whether the kernel has ended the connection: unmounted, or aborted."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def refuse_request(descriptor: int) -> int | None:
    """Read one request and answer it with EIO; blocks until there is one.

    Returns the file handle that it closes, if it does that. Raises OSError ENODEV where the mount
    is over.
    """
    # ENOENT: the caller of the request is gone.
    with contextlib.suppress(FileNotFoundError, BlockingIOError):
        message = os.read(descriptor, _REQUEST_BYTES)
        if len(message) < _IN_HEADER.size:
            return None
        _, opcode, unique, *_ = _IN_HEADER.unpack_from(message)
        if opcode not in _WITHOUT_REPLY:
            os.write(descriptor, _OUT_HEADER.pack(_OUT_HEADER.size, -errno.EIO, unique))
        if opcode == _RELEASE and len(message) >= _IN_HEADER.size + _FH.size:
            fh: int = _FH.unpack_from(message, _IN_HEADER.size)[0]
            return fh
    return None
