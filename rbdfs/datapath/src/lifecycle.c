#define _GNU_SOURCE
#include "lifecycle.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "amend.h"
#include "mux.h"
#include "reader.h"
#include "replier.h"
#include "reply.h"
#include "thread.h"

/* A message that pyfuse3 or Python does not take is answered here, or its caller would wait for
 * ever. */
static void undelivered(void *arg, const char *data, size_t length, int error)
{
    struct mux *mux = arg;
    const struct fuse_in_header *in = (const void *)data;
    struct pending_request request;
    bool known;

    (void)length; /* only whole messages are sent */
    mux_count(&mux->stats.undelivered, 1);
    /* Whoever waits goes on waiting. */
    if (in->opcode & OPCODE_ABANDONED)
        return;
    known = pending_take(&mux->pending, in->unique, &request);
    callers_remove(&mux->callers, in->unique);
    if (!has_reply(in->opcode))
        return;
    mux_add_unreplied(mux, -1);
    if (!(known && request.answered))
        mux_reply_error(mux, in->unique, error == ENOMEM || error == ENOBUFS ? ENOMEM : EIO);
}

/* A notification that the kernel refuses, mostly with ENOENT: what it names is not cached. */
static void unnotified(void *arg, const char *data, size_t length, int error)
{
    struct mux *mux = arg;

    (void)data;
    (void)length;
    mux_count(error == ENOENT ? &mux->stats.unwanted : &mux->stats.reply_errors, 1);
}

static int duplicate(int fd)
{
    return fcntl(fd, F_DUPFD_CLOEXEC, 3);
}

static bool set_nonblocking(int fd, bool nonblocking)
{
    int flags = fcntl(fd, F_GETFL);

    return flags >= 0 &&
           fcntl(fd, F_SETFL, nonblocking ? flags | O_NONBLOCK : flags & ~O_NONBLOCK) == 0;
}

static bool open_descriptors(struct mux *mux, int fuse_fd, int pyfuse3_fd, int extra_fd)
{
    mux->fuse_fd = duplicate(fuse_fd);
    mux->pyfuse3_fd = duplicate(pyfuse3_fd);
    mux->extra_fd = duplicate(extra_fd);
    mux->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    mux->ended_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (mux->fuse_fd < 0 || mux->pyfuse3_fd < 0 || mux->extra_fd < 0 || mux->stop_fd < 0 ||
        mux->ended_fd < 0)
        return false;
    /* A reader that finds nothing waits for stop_fd as well. */
    return set_nonblocking(mux->fuse_fd, true) && set_nonblocking(mux->pyfuse3_fd, false) &&
           set_nonblocking(mux->extra_fd, false);
}

static void close_descriptors(struct mux *mux)
{
    int fds[] = {mux->fuse_fd, mux->pyfuse3_fd, mux->extra_fd, mux->stop_fd, mux->ended_fd};

    for (size_t i = 0; i < sizeof fds / sizeof *fds; i++)
        if (fds[i] >= 0)
            close(fds[i]);
}

struct mux *mux_new(int fuse_fd, int pyfuse3_fd, int extra_fd, int ledger_fd,
                    int meters_fd, const struct mux_settings *settings)
{
    struct mux *mux = calloc(1, sizeof *mux);

    if (!mux)
        return NULL;
    mux->reply = malloc(REPLY_BYTES);
    if (!open_descriptors(mux, fuse_fd, pyfuse3_fd, extra_fd) || !mux->reply ||
        table_init(&mux->table) || (errno = ledger_init(&mux->ledger, ledger_fd, settings->killed)) ||
        (errno = meters_init(&mux->meters, meters_fd)) ||
        (errno = trace_init(&mux->trace, settings->trace))) {
        int error = errno;
        close_descriptors(mux);
        free(mux->reply);
        free(mux);
        errno = error;
        return NULL;
    }
    mux->settings = *settings;
    pool_init(&mux->pool);
    pending_init(&mux->pending);
    callers_init(&mux->callers);
    pthread_mutex_init(&mux->lock, NULL);
    monotonic_cond_init(&mux->drained);
    outlet_init(&mux->pyfuse3, mux->pyfuse3_fd, true, undelivered, mux);
    outlet_init(&mux->extra, mux->extra_fd, true, undelivered, mux);
    outlet_init(&mux->notifier, mux->fuse_fd, false, unnotified, mux);
    return mux;
}

void mux_free(struct mux *mux)
{
    table_destroy(&mux->table);
    outlet_destroy(&mux->pyfuse3);
    outlet_destroy(&mux->extra);
    outlet_destroy(&mux->notifier);
    pending_destroy(&mux->pending);
    ledger_destroy(&mux->ledger);
    meters_destroy(&mux->meters);
    trace_destroy(&mux->trace);
    free(mux->interrupts.items);
    callers_destroy(&mux->callers);
    pool_destroy(&mux->pool);
    pthread_cond_destroy(&mux->drained);
    pthread_mutex_destroy(&mux->lock);
    close_descriptors(mux);
    free(mux->reply);
    free(mux);
}

int mux_start(struct mux *mux, const char *init, size_t init_length)
{
    int error;

    if (init_length) {
        record_init(mux, init, init_length);
        mux->init_state = INIT_SWALLOW;
        mux_add_unreplied(mux, 1);
        outlet_send(&mux->pyfuse3, mux->init, mux->init_length);
    }
    error = outlet_start(&mux->pyfuse3);
    if (!error)
        error = outlet_start(&mux->extra);
    if (!error)
        error = outlet_start(&mux->notifier);
    if (!error) {
        error = thread_start(&mux->replier, replier_main, mux);
        mux->replier_started = !error;
    }
    if (!error) {
        error = thread_start(&mux->reader, reader_main, mux);
        mux->reader_started = !error;
    }
    return error;
}

/* Join the reader: 0 or ETIMEDOUT. */
static int stop_reading(struct mux *mux, const struct timespec *deadline)
{
    uint64_t one = 1;
    int error = 0;

    atomic_store(&mux->stopping, true);
    (void)!write(mux->stop_fd, &one, sizeof one);
    if (mux->reader_started) {
        error = thread_join(mux->reader, deadline);
        mux->reader_started = error != 0;
    }
    return error;
}

static bool is_drained(struct mux *mux, bool all)
{
    return !mux->inflight.count && !(all && mux->unreplied > 0);
}

int mux_drain(struct mux *mux, bool all, const struct timespec *deadline)
{
    int error = 0;

    /* A notification may wait in the kernel for the answer to a request, which has to be read then.
     * The next server asks for what is not notified any more. */
    if (all)
        error = outlet_finish(&mux->notifier, deadline);
    if (!error)
        error = stop_reading(mux, deadline);
    if (error)
        return error;
    pthread_mutex_lock(&mux->lock);
    while (!error && !is_drained(mux, all))
        error = pthread_cond_timedwait(&mux->drained, &mux->lock, deadline);
    if (is_drained(mux, all))
        error = 0;
    pthread_mutex_unlock(&mux->lock);
    return error;
}

int mux_stop(struct mux *mux, const struct timespec *deadline)
{
    int error = mux_drain(mux, false, deadline);

    /* Requests hold what they need of them: an image that still has some is waited for by its
     * close, which would be refused otherwise. */
    table_clear(&mux->table);
    outlet_close(&mux->pyfuse3);
    outlet_close(&mux->extra);
    outlet_close(&mux->notifier);
    /* Wakes the threads that are blocked in them. */
    shutdown(mux->pyfuse3_fd, SHUT_RDWR);
    shutdown(mux->extra_fd, SHUT_RDWR);
    if (!error)
        error = outlet_join(&mux->pyfuse3, deadline);
    if (!error)
        error = outlet_join(&mux->extra, deadline);
    if (!error && mux->replier_started) {
        error = thread_join(mux->replier, deadline);
        mux->replier_started = error != 0;
    }
    if (!error)
        error = outlet_join(&mux->notifier, deadline);
    return error;
}
