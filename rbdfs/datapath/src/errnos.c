#include "errnos.h"

#include <errno.h>

int answered_errno(bool writing, int error)
{
    switch (error) {
    case EPERM:
    case EIO:
    case EBADF:
    case ENOMEM:
    case EACCES:
    case EINVAL:
    case ESTALE:
    case ESHUTDOWN:
    case ETIMEDOUT:
        return error;
    case EINTR:
        /* A change may have been made, or may be made later. */
        return writing ? EIO : error;
    case EBUSY:
    case EFBIG:
    case ENOSPC:
    case EROFS:
        return writing ? error : EIO;
    case EDQUOT:
        /* A disk has no quota: QEMU pauses its guest upon ENOSPC, and upon nothing else. */
        return writing ? ENOSPC : EIO;
    default:
        return EIO;
    }
}
