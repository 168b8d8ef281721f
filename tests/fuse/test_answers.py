"""The errnos that leave for the kernel: of all that librbd may return, those that are so."""

from __future__ import annotations

import errno
import inspect

import pytest
from pyfuse3 import FUSEError

from rbdfs.fuse.answers import answered
from rbdfs.fuse.operations import Operations, replies_errno

REQUESTS = sorted(
    name
    for name, _ in inspect.getmembers(Operations, inspect.iscoroutinefunction)
    if name not in ("forget", "poll")
)
# The kernel never asks again, a program takes its descriptor for one that does not block, the mount
# for dead, or its device for gone.
NEVER = {errno.ENOSYS, errno.EAGAIN, errno.ENOTCONN, errno.ENODEV, errno.ECONNABORTED, errno.EDQUOT}


async def answer(request: str, error: BaseException) -> int:
    async def operation() -> None:
        raise error

    operation.__name__ = request
    with pytest.raises(FUSEError) as caught:
        await replies_errno(operation)()
    return int(caught.value.errno)


@pytest.mark.parametrize("request_name", REQUESTS)
async def test_every_errno_has_its_answer(request_name: str) -> None:
    for code in range(1, 134):
        told = await answer(request_name, OSError(code, "librbd said so"))
        assert told == answered(request_name, code)
        assert told not in NEVER
        assert told in {code, errno.EIO} or (code, told) == (errno.EDQUOT, errno.ENOSPC)
        assert await answer(request_name, FUSEError(code)) in {code, errno.EIO}


def test_a_change_is_never_called_interrupted() -> None:
    for request in ("write", "fsync", "flush", "fallocate", "copy_file_range"):
        assert answered(request, errno.EINTR) == errno.EIO
    assert answered("read", errno.EINTR) == errno.EINTR


def test_data_has_no_name_to_miss() -> None:
    for request in ("read", "write", "fsync", "flush", "lseek", "fallocate"):
        assert answered(request, errno.ENOENT) == errno.EIO
    assert answered("lookup", errno.ENOENT) == errno.ENOENT


def test_what_requests_are_for_is_said() -> None:
    assert answered("lseek", errno.ENXIO) == errno.ENXIO
    assert answered("getxattr", errno.ENODATA) == errno.ENODATA
    assert answered("fallocate", errno.EOPNOTSUPP) == errno.EOPNOTSUPP
    assert answered("rename", errno.EXDEV) == errno.EXDEV


def test_poll_is_left_to_the_kernel() -> None:
    assert answered("poll", errno.ENOSYS) == errno.ENOSYS
