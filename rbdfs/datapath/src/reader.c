#include "reader.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

#include "dispatch.h"
#include "mux.h"

/* Wait until the device has something, or the reader has to end: false. */
static bool wait_readable(struct mux *mux)
{
    struct pollfd fds[] = {{.fd = mux->fuse_fd, .events = POLLIN},
                           {.fd = mux->stop_fd, .events = POLLIN}};

    while (poll(fds, 2, -1) < 0 && errno == EINTR)
        ;
    return !fds[1].revents;
}

static bool stopping(struct mux *mux, int timeout_ms)
{
    struct pollfd stop = {.fd = mux->stop_fd, .events = POLLIN};

    return poll(&stop, 1, timeout_ms) > 0;
}

void *reader_main(void *arg)
{
    struct mux *mux = arg;
    struct block *block = NULL;
    bool running = true;

    while (running) {
        ssize_t length;

        if (!block && !(block = pool_get(&mux->pool, LARGE_BYTES))) {
            /* No memory. It comes back with a request's end; who waits is waiting anyway. */
            running = !stopping(mux, 100);
            continue;
        }
        length = read(mux->fuse_fd, block_message(block), WRITE_HEAD_BYTES + LARGE_BYTES);
        if (length > 0) {
            dispatch(mux, &block, length);
        } else if (length < 0 && errno == EAGAIN) {
            running = wait_readable(mux);
        } else if (length == 0 || (errno != EINTR && errno != ENOENT)) {
            /* ENODEV: unmounted or aborted. ENOENT: the caller went away, nothing else did. */
            mux_end(mux, length == 0 ? ENODEV : errno);
            running = false;
        }
    }
    if (block)
        pool_put(&mux->pool, block);
    return NULL;
}
