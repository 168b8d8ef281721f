/* The multiplexer between the kernel, librbd and pyfuse3: what all parts of it share.
 *
 *     kernel <--/dev/fuse--> mux <--socket--> pyfuse3
 *                             |  ---socket--> Python, for what pyfuse3 does not know
 *                             +-> librbd
 *
 * lifecycle.h sets it up, starts its threads and ends them. Includes point down only:
 *
 *     lifecycle > reader, replier > dispatch > forward > request > amend > reply > mux
 *               > registration > open_image, outlet > inflight, pending, callers, ledger, meters,
 *               trace, block, thread, abi
 *
 * NOTES ON THE THREAD MODEL
 *
 * The reader reads the device. It looks at each message (dispatch.c), and either submits it to
 * librbd or gives it to an outlet. It waits for nothing but the device: librbd takes a request
 * without waiting, an outlet queues what its socket does not take, and a request above the limits
 * of its image is parked in the image's queue. So a stuck image or a slow pyfuse3 stops nobody
 * else. What bounds the number of requests, and with it the memory, is the kernel: max_background
 * of the INIT reply for asynchronous requests, and the waiting callers for the others.
 *
 * librbd's threads run the completions (request.c). They answer the kernel, submit what was parked,
 * and pass on the RELEASE that waited for the last request of its file. Here too nothing waits, but
 * for locks that are held for a few instructions.
 *
 * The replier reads pyfuse3's replies, amends those of INIT, OPEN and CREATE, and writes them to
 * the device. pyfuse3 writes to its socket on the Trio thread, so the replier must never be stuck
 * either: a notification (unique 0) may wait in the kernel for a page or a directory that only an
 * answer to another request unlocks. Those go through the notifier, an outlet in front of the
 * device.
 *
 * Each outlet has a thread: one to pyfuse3, one to Python (extra), and the notifier.
 *
 * LOCKS
 *
 * The table's is taken before an image's, and an image's before an outlet's. Those of the pool, the
 * pending, the callers, the ledger, the trace and the mux itself are taken last, and no other is
 * taken while one of them is held. Two places answer a request while they hold a lock, so that it
 * cannot end meanwhile: request_fail_all() the image's, request_interrupt() the mux's.
 *
 * A request's memory, its registration and the registration's image live until librbd's completion,
 * whatever was answered before. The mux is freed only after the last request: mux_stop() says
 * whether that was so.
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
#include "callers.h"
#include "inflight.h"
#include "ledger.h"
#include "meters.h"
#include "outlet.h"
#include "pending.h"
#include "registration.h"
#include "trace.h"

enum { INIT_BYTES = 256 }; /* room for the INIT request: 104 bytes today */

struct mux_settings {
    uint32_t max_write; /* bytes of one request, at most LARGE_BYTES */
    uint16_t max_background;
    unsigned page_bytes;     /* of the kernel, which counts requests in pages */
    unsigned image_requests; /* limits of struct open_image */
    size_t image_bytes;
    bool trace;                    /* keep what is answered here, see trace.h */
    bool killed;                   /* the server before this one was, see ledger.h */
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
    atomic_ullong resent;       /* requests that a server before this one had not answered */
    atomic_ullong refused;      /* those that servers have died of */
    atomic_ullong interrupted;  /* requests that were answered with EINTR */
    atomic_ullong read_errors;  /* reads of the device that failed, and were tried again */
};

struct mux_gauges {
    size_t active;  /* requests in librbd, or parked */
    long unreplied; /* requests in pyfuse3 or Python */
    size_t registered;
};

/* A request that is to be interrupted when it is time. */
struct interrupt {
    uint64_t unique;
    int64_t due_ms;
};

struct interrupts {
    struct interrupt *items;
    size_t count, capacity;
};

enum init_state { INIT_NONE, INIT_AMEND, INIT_SWALLOW, INIT_DONE };

struct mux {
    int fuse_fd, pyfuse3_fd, extra_fd;
    int stop_fd;  /* eventfd: the reader has to end, and `stopping` is set */
    int ended_fd; /* eventfd: the kernel has ended the connection, or the mux gave up */
    atomic_int ended; /* ENODEV: the kernel did; another errno: why the mux gave up */
    atomic_bool stopping;
    struct mux_settings settings;
    struct mux_stats stats;

    struct pool pool;
    struct table table;
    struct outlet pyfuse3, extra, notifier;
    struct pending pending; /* requests that pyfuse3 has and that can be interrupted, or are opens; and
                             * all that Python has */
    struct interrupts interrupts;
    struct ledger ledger;
    struct meters meters;
    struct trace trace;
    atomic_ullong own_uniques; /* numbers of requests to pyfuse3 that are the mux's own */
    struct callers callers; /* requests that pyfuse3 has, and may not have begun yet */

    pthread_mutex_t lock;
    pthread_cond_t drained;
    struct inflight inflight; /* requests for librbd that are not complete */
    long unreplied;           /* requests that pyfuse3 or Python has */
    enum init_state init_state;
    uint64_t init_unique;
    uint64_t init_offered; /* the flags of the INIT request */
    size_t init_length;
    char init[INIT_BYTES];

    pthread_t reader, replier;
    bool reader_started, replier_started;
    char *reply; /* the replier's buffer */
};

/* A new file: 0 or an errno of table_add(). */
int mux_register(struct mux *mux, struct open_image *image,
                 const struct registration_options *options);
/* 0, ENOENT, or EINVAL if the file would end past what an offset can name. */
int mux_set_length(struct mux *mux, uint64_t fh, uint64_t length);

struct mux_gauges mux_read_gauges(struct mux *mux);

/* A request for librbd begins and ends. Nothing may touch the mux after the end of its last one. */
void mux_begin_request(struct mux *mux, struct inflight_entry *entry);
void mux_end_request(struct mux *mux, struct inflight_entry *entry);
/* Requests that pyfuse3 or Python has, more or fewer. */
void mux_add_unreplied(struct mux *mux, int count);
/* The connection is over, for this errno. */
void mux_end(struct mux *mux, int error);

static inline void mux_count(atomic_ullong *counter, unsigned long long more)
{
    atomic_fetch_add_explicit(counter, more, memory_order_relaxed);
}

#endif
