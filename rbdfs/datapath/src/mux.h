/* The multiplexer between the kernel, librbd and pyfuse3.
 *
 *     kernel <--/dev/fuse--> mux <--socket--> pyfuse3
 *                             |  ---socket--> Python, for what pyfuse3 does not know
 *                             +-> librbd
 *
 * NOTES ON THE THREAD MODEL
 *
 * Readers (one or more) read the device, look at each message (dispatch.c) and either submit it to
 * librbd or give it to an outlet. They never wait for anything but the device: librbd takes a request
 * without waiting, an outlet queues what its socket does not take, and a request above the limits of
 * its image is parked in the image's queue. So a stuck image or a slow pyfuse3 stops nobody else. What
 * bounds the number of requests, and with it the memory, is the kernel: max_background of the INIT
 * reply for asynchronous requests, and the waiting callers for the others.
 *
 * librbd's threads run completions (request.c). They answer the kernel, submit what was parked, and
 * pass on the RELEASE that waited for the last request of its handle. Here too nothing waits, but for
 * locks that are held for a few instructions.
 *
 * The replier reads pyfuse3's replies, amends those of INIT, OPEN and CREATE, and writes them to the
 * device. pyfuse3 writes to its socket on the Trio thread, so the replier must never be stuck either:
 * a notification (unique 0) may wait in the kernel for a page or a directory that only an answer to
 * another request unlocks. Those go through the notifier, an outlet in front of the device.
 *
 * An outlet has a thread each: to pyfuse3, to Python (extra), and the notifier.
 *
 * Locks: the table's before an image's before an outlet's; pool, uniques and the mux's own are taken
 * last and hold no other. request_fail_all() answers with the image's lock held.
 *
 * A request's memory, its handle and the handle's image live until librbd's completion, whatever was
 * answered before. The mux is freed only after the last request: mux_stop() says whether that was so.
 */
#ifndef RBDFS_MUX_H
#define RBDFS_MUX_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "abi.h"
#include "block.h"
#include "handle.h"
#include "outlet.h"
#include "uniques.h"

enum {
    MAX_READERS = 16,
    INIT_BYTES = 256, /* room for the INIT request: 104 bytes today */
};

struct mux_settings {
    unsigned readers;
    uint32_t max_write; /* bytes of one request, at most LARGE_BYTES */
    uint16_t max_background;
    unsigned image_requests; /* limits of struct image */
    size_t image_bytes;
    uint64_t init_set, init_clear; /* INIT flags to set where the kernel offers them, and to clear */
};

struct mux_stats {
    atomic_ullong reads, writes, flushes, bytes_read, bytes_written;
    atomic_ullong errors;       /* requests that librbd or a failed image answered with an errno */
    atomic_ullong passed_on;    /* to pyfuse3 */
    atomic_ullong extra;        /* to Python */
    atomic_ullong malformed;    /* messages from the kernel that were not as they should be */
    atomic_ullong undelivered;  /* messages that pyfuse3 or Python did not take */
    atomic_ullong unwanted;     /* replies that the kernel did not want any more */
    atomic_ullong reply_errors; /* replies that the kernel refused */
};

struct mux_gauges {
    size_t active; /* requests in librbd, or parked */
    long unreplied; /* requests in pyfuse3 or Python */
    size_t handles;
};

enum init_state { INIT_NONE, INIT_AMEND, INIT_SWALLOW, INIT_DONE };

struct mux {
    int fuse_fd, pyfuse3_fd, extra_fd;
    int stop_fd;  /* eventfd: the readers have to end */
    int ended_fd; /* eventfd: the kernel has ended the connection, or the mux gave up */
    atomic_int ended;
    struct mux_settings settings;
    struct mux_stats stats;

    struct pool pool;
    struct table table;
    struct outlet pyfuse3, extra, notifier;
    struct uniques opens;  /* OPEN and CREATE that pyfuse3 has */
    struct uniques extras; /* requests that Python has */

    pthread_mutex_t lock;
    pthread_cond_t drained;
    size_t active;     /* requests for librbd that are not complete */
    long unreplied;    /* requests that pyfuse3 has */
    enum init_state init_state;
    uint64_t init_unique;
    uint64_t init_offered; /* the flags of the INIT request */
    size_t init_length;
    char init[INIT_BYTES];

    pthread_t readers[MAX_READERS], replier;
    unsigned reader_count;
    bool replier_started;
};

/* The descriptors are duplicated. NULL and errno. */
struct mux *mux_new(int fuse_fd, int pyfuse3_fd, int extra_fd, const struct mux_settings *settings);
/* Start the threads: 0 or an errno. With `init`, a recorded INIT request, pyfuse3 gets it first and
 * its reply is swallowed: the kernel had its answer from another process. */
int mux_start(struct mux *mux, const char *init, size_t init_length);
/* Stop reading, and wait until librbd has no request, and if `all` pyfuse3 and Python have none either:
 * 0 or ETIMEDOUT. */
int mux_drain(struct mux *mux, bool all, const struct timespec *deadline);
/* Drain librbd, end the threads, shut the sockets down, forget the handles: 0, or ETIMEDOUT and the mux
 * must not be freed. */
int mux_stop(struct mux *mux, const struct timespec *deadline);
/* Of a stopped mux, or one that was never started. */
void mux_free(struct mux *mux);

/* A new handle: 0 or an errno of table_add(). */
int mux_register(struct mux *mux, struct image *image, const struct handle_options *options);
/* 0, ENOENT, or EINVAL if the file would end past what an offset can name. */
int mux_set_length(struct mux *mux, uint64_t fh, uint64_t length);

struct mux_gauges mux_read_gauges(struct mux *mux);

/* Answer a request of the kernel. */
void mux_reply(struct mux *mux, uint64_t unique, const void *payload, size_t length);
void mux_reply_error(struct mux *mux, uint64_t unique, int error);
/* The same for a payload that has room for the header before it. */
void mux_reply_in_place(struct mux *mux, uint64_t unique, char *payload, size_t length);
/* A whole reply to a request that Python has: 0 or an errno (ENOENT: nobody wants it any more). */
int mux_reply_extra(struct mux *mux, const char *message, size_t length);

void mux_begin_request(struct mux *mux);
void mux_end_request(struct mux *mux);
/* Requests that pyfuse3 or Python has, more or fewer. */
void mux_add_unreplied(struct mux *mux, int count);
/* The connection is over, for this errno. */
void mux_end(struct mux *mux, int error);

static inline void mux_count(atomic_ullong *counter, unsigned long long more)
{
    atomic_fetch_add_explicit(counter, more, memory_order_relaxed);
}

/* dispatch.c: carry out or pass on the message of `length` bytes at block_message(*block). Takes the
 * block, and sets it to NULL, if the message stays in it. */
void dispatch(struct mux *mux, struct block **block, size_t length);
/* forward.c: whether the kernel waits for a reply to this opcode. */
bool has_reply(uint32_t opcode);

/* amend.c */
void record_init(struct mux *mux, const char *message, size_t length);
/* Change a reply of pyfuse3 as needed; false if it is not for the kernel. */
bool amend_reply(struct mux *mux, char *message, size_t length);

#endif
