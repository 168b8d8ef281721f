/* send(2) and writev(2) on a socket of a host whose memory is in small pieces: of the large messages
 * every second one is refused with ENOBUFS. For LD_PRELOAD. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <sys/uio.h>

enum { LARGE = 256 << 10 };

static bool refused(size_t length)
{
    static atomic_int large;

    if (length < LARGE || atomic_fetch_add(&large, 1) % 2)
        return false;
    errno = ENOBUFS;
    return true;
}

static bool is_socket(int fd)
{
    int type;
    socklen_t length = sizeof type;

    return !getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length);
}

ssize_t send(int fd, const void *data, size_t length, int flags)
{
    static ssize_t (*original)(int, const void *, size_t, int);

    if (!original)
        original = dlsym(RTLD_NEXT, "send");
    return refused(length) ? -1 : original(fd, data, length, flags);
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    static ssize_t (*original)(int, const struct iovec *, int);
    size_t length = 0;

    if (!original)
        original = dlsym(RTLD_NEXT, "writev");
    for (int i = 0; i < count; i++)
        length += parts[i].iov_len;
    return is_socket(fd) && refused(length) ? -1 : original(fd, parts, count);
}
