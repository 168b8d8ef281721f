"""The requests that the data path passes to Python, and pyfuse3 does not get."""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING

import pyfuse3

from rbdfs.kernel import extra_requests

if TYPE_CHECKING:
    from rbdfs.fuse.operations import Operations

log = logging.getLogger(__name__)


async def carry_out(request: extra_requests.AnyRequest, operations: Operations) -> bytes:
    """Have *operations* carry out what pyfuse3 does not get; return the answer to the kernel."""
    try:
        match request:
            case extra_requests.Refused():
                log.error(
                    "servers have ended with a request of process %d under way (opcode %d on inode"
                    " %d), sent again each time: it fails with EIO",
                    *(request.pid, request.opcode, request.nodeid),
                )
                await operations.close_refused(request.unique)
                return extra_requests.error_reply(request.unique, errno.EIO)
            case extra_requests.Read():
                data = await operations.read(request.fh, request.offset, request.size)
                return extra_requests.read_reply(request, data)
            case extra_requests.DurableWrite():
                count = await operations.write_durably(request.fh, request.offset, request.data)
                return extra_requests.write_reply(request, count)
            case extra_requests.Fallocate():
                await operations.fallocate(request.fh, request.mode, request.offset, request.length)
                return extra_requests.empty_reply(request.unique)
            case extra_requests.Lseek():
                found = await operations.lseek(request.fh, request.offset, request.whence)
                return extra_requests.lseek_reply(request, found)
            case extra_requests.CopyFileRange():
                count = await operations.copy_file_range(
                    request.fh_in,
                    request.offset_in,
                    request.fh_out,
                    request.offset_out,
                    request.length,
                )
                return extra_requests.copy_reply(request, count)
    except pyfuse3.FUSEError as exc:
        return extra_requests.error_reply(request.unique, exc.errno)
