"""Requests of the kernel that Python reads: those that pyfuse3 does not know, and the keeper's.

An input: a byte for who reads it, and the message. With a flag, it gets the length that it has.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct

from fuzzing.parts import Parts
from rbdfs.kernel import extra_requests, raw_requests
from rbdfs.kernel.extra_requests import (
    AnyRequest,
    CopyFileRange,
    DurableWrite,
    Fallocate,
    Lseek,
    MalformedRequestError,
    Refused,
)

_SHORT, _EXTRA = 2, 1
_HEADER_BYTES = 40
_OFFSET_MAX = (1 << 63) - 1


def check(data: bytes) -> None:
    parts = Parts(data)
    flags, message = parts.number(), parts.rest()
    if not flags & _SHORT:
        message = struct.pack("=I", len(message)) + message[4:]
    raw_requests.sends_again(message)
    if flags & _EXTRA:
        _extra(message)
    elif message:
        _refused(message)


def _extra(message: bytes) -> None:
    unique = int.from_bytes(message[8:16].ljust(8, b"\0"), "little")
    try:
        request = extra_requests.parse(message)
    except MalformedRequestError as exc:
        answered = exc.unique
    else:
        # It is no request of the kernel's, and has no answer.
        if isinstance(request, extra_requests.Abandoned):
            return
        answered = _carried_out(request)
    # What has no header cannot be answered, and what has one must be.
    assert answered == (unique if len(message) >= _HEADER_BYTES else 0)


def _carried_out(request: AnyRequest) -> int:
    """Make the answer to a request; return whose number it has."""
    match request:
        case DurableWrite():
            assert request.offset + len(request.data) <= _OFFSET_MAX
            reply = extra_requests.write_reply(request, len(request.data))
        case Fallocate():
            assert request.offset + request.length <= _OFFSET_MAX
            reply = extra_requests.empty_reply(request.unique)
        case Lseek():
            assert request.offset <= _OFFSET_MAX
            reply = extra_requests.lseek_reply(request, request.offset)
        case CopyFileRange():
            assert max(request.offset_in, request.offset_out) + request.length <= _OFFSET_MAX
            reply = extra_requests.copy_reply(request, min(request.length, 0xFFFFFFFF))
        case Refused():
            reply = extra_requests.error_reply(request.unique, errno.EIO)
    length, answered = struct.unpack_from("=I4xQ", reply)
    assert length == len(reply)
    return int(answered)


def _refused(message: bytes) -> None:
    """The keeper answers each request that has an answer, with EIO, whatever is in it."""
    ours, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, kernel:
        kernel.send(message)
        closed = raw_requests.refuse_request(ours.fileno())
        _, opcode, unique = struct.unpack_from("=IIQ", message.ljust(16, b"\0"))
        assert closed is None or opcode == 18
        kernel.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            length, error, answered = struct.unpack("=IiQ", kernel.recv(100))
            assert (length, error, answered) == (16, -errno.EIO, unique)
            return
        # FORGET, INTERRUPT, NOTIFY_REPLY, BATCH_FORGET; or it was none.
        assert opcode in (2, 36, 41, 42) or len(message) < _HEADER_BYTES
        assert os.fstat(ours.fileno())
