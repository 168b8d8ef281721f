#include "reader.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

#include "dispatch.h"
#include "interrupts.h"
#include "mux.h"

enum {
    PAUSE_MS = 100,
    /* After so many errors in a row, and nothing read between them, the mux gives up: another
     * server may fare better. */
    ERRORS_MAX = 50,
    /* The kernel takes no smaller buffer, whatever max_write is. */
    LEAST_BYTES = FUSE_MIN_READ_BUFFER,
    MOST_BYTES = WRITE_HEAD_BYTES + LARGE_BYTES,
};

/* Wait until the device has something, a request is to be interrupted, or the reader has to end. */
static void wait_readable(struct mux *mux)
{
    struct pollfd fds[] = {{.fd = mux->fuse_fd, .events = POLLIN},
                           {.fd = mux->stop_fd, .events = POLLIN}};

    /* Interrupted, or something is due: the caller looks again. */
    poll(fds, 2, interrupts_timeout_ms(mux));
}

/* Wait for what only time can mend, or until the reader has to end. */
static void pause_reading(struct mux *mux)
{
    struct pollfd stop = {.fd = mux->stop_fd, .events = POLLIN};

    poll(&stop, 1, PAUSE_MS);
}

/* Whether a read of the device says that there is no connection any more: it was unmounted or
 * aborted. */
static bool is_over(ssize_t length, int error)
{
    return length == 0 || error == ENODEV || error == ECONNABORTED || error == EPERM;
}

/* How much is read at a time: no more than pyfuse3's socket takes in one piece. The kernel splits
 * what can be long and is no WRITE (BATCH_FORGET). */
static size_t first_size(const struct mux *mux)
{
    size_t bytes = WRITE_HEAD_BYTES + mux->settings.max_write;

    return bytes < LEAST_BYTES ? LEAST_BYTES : bytes;
}

void *reader_main(void *arg)
{
    struct mux *mux = arg;
    struct block *block = NULL;
    size_t bytes = first_size(mux);
    int errors = 0;

    /* The flag, and not only stop_fd: while there is always something to read, nobody polls. */
    while (!atomic_load(&mux->stopping)) {
        ssize_t length;

        interrupts_run(mux);
        if (!block && !(block = pool_get(&mux->pool, LARGE_BYTES))) {
            /* A request that ends gives memory back; whoever sends another one has to wait for
             * that. */
            pause_reading(mux);
            continue;
        }
        length = read(mux->fuse_fd, block_message(block), bytes);
        if (length > 0) {
            errors = 0;
            dispatch(mux, &block, length);
        } else if (length < 0 && errno == EAGAIN) {
            wait_readable(mux);
        } else if (length < 0 && (errno == EINTR || errno == ENOENT)) {
            /* ENOENT: the caller of a request went away, and nothing else. */
        } else if (length < 0 && errno == EINVAL && bytes < MOST_BYTES) {
            /* The kernel has larger requests, which a server before this one has agreed to. */
            bytes = MOST_BYTES;
        } else if (is_over(length, errno)) {
            mux_end(mux, ENODEV);
            break;
        } else if (++errors >= ERRORS_MAX) {
            mux_end(mux, errno);
            break;
        } else {
            /* The kernel has answered that request with an error by itself: a page of the block
             * could not be had, say. It is no reason to end the mount. */
            mux_count(&mux->stats.read_errors, 1);
            pause_reading(mux);
        }
    }
    if (block)
        pool_put(&mux->pool, block);
    return NULL;
}
