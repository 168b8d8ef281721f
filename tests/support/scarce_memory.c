/* send(2) of a host whose memory is in small pieces: of the large messages that are sent, and were
 * not just refused, every second one is refused with ENOBUFS. For LD_PRELOAD. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <sys/socket.h>

enum { LARGE = 256 << 10 };

ssize_t send(int fd, const void *data, size_t length, int flags)
{
    static ssize_t (*original)(int, const void *, size_t, int);
    static atomic_int large;

    if (!original)
        original = dlsym(RTLD_NEXT, "send");
    if (length >= LARGE && atomic_fetch_add(&large, 1) % 2 == 0) {
        errno = ENOBUFS;
        return -1;
    }
    return original(fd, data, length, flags);
}
