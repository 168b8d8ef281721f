"""Which errno may be the answer to which request.

The kernel gives some a meaning of its own: after ENOSYS it never sends such a request again, for
any file of the mount (and takes each FSYNC for done). So do programs: EAGAIN means a descriptor
that does not block, ENOTCONN a dead mount. librbd and librados may return any. So what is not named
here is EIO, and the log has what it was. The data path has the same table for the four requests
that it answers itself (datapath/src/errnos.c); a test holds them together.
"""

from __future__ import annotations

import errno

from pyfuse3 import FUSEError

_ANY = frozenset(
    {errno.EPERM, errno.EIO, errno.EBADF, errno.ENOMEM, errno.EACCES, errno.EINVAL}
    | {errno.ESTALE, errno.ESHUTDOWN, errno.ETIMEDOUT}
)
_READING = _ANY | {errno.EINTR}
# Never EINTR: a change may have been made, or may be made later.
_WRITING = _ANY | {errno.EBUSY, errno.EFBIG, errno.ENOSPC, errno.EROFS}
_SPACE = _WRITING | {errno.EOPNOTSUPP, errno.ENXIO}
_NAMES = _WRITING | frozenset(
    {errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY, errno.EXDEV}
    | {errno.ENAMETOOLONG, errno.EMLINK, errno.ELOOP, errno.EMFILE, errno.ENFILE, errno.ETXTBSY}
    | {errno.EOPNOTSUPP, errno.EINTR}
)
_ATTRIBUTES = _NAMES | {errno.ENODATA, errno.ERANGE, errno.E2BIG}

_BY_REQUEST = {
    "read": _READING,
    "write": _WRITING,
    "write_durably": _WRITING,
    "fsync": _WRITING,
    "flush": _WRITING,
    "lseek": _READING | {errno.ENXIO},
    "fallocate": _SPACE,
    "copy_file_range": _SPACE | {errno.EXDEV, errno.EISDIR},
    "getxattr": _ATTRIBUTES,
    "setxattr": _ATTRIBUTES,
    "listxattr": _ATTRIBUTES,
    "removexattr": _ATTRIBUTES,
    # For the kernel it says that every file is always ready, which is true.
    "poll": _NAMES | {errno.ENOSYS},
}


def answered(request: str, code: int | None) -> int:
    """Return the errno that the kernel is told when the operation *request* fails with *code*."""
    if code == errno.EDQUOT:
        # A disk has no quota: QEMU pauses its guest upon ENOSPC, and upon nothing else.
        code = errno.ENOSPC
    return code if code in _BY_REQUEST.get(request, _NAMES) and code else errno.EIO


def errno_of(request: str, exc: BaseException) -> int:
    """Return the errno that the kernel is told when the operation *request* raises *exc*."""
    if isinstance(exc, (OSError, FUSEError)):
        return answered(request, exc.errno)
    # What is cancelled has been answered already.
    return errno.EIO if isinstance(exc, Exception) else errno.EINTR
