/* A request of the kernel that librbd carries out.
 *
 * A REQUEST'S LIFE, and who owns its memory when
 *
 *                                                 the message's block          the request
 *   reader.c    reads a message into a block      the reader's                 -
 *   dispatch.c  looks at it (struct arrival)      the reader's                 -
 *     | not for librbd: forward.c copies it into an outlet; the reader goes on with its block.
 *     v READ, WRITE, FSYNC, FLUSH of a registered file:
 *   dispatch.c  makes a request                   WRITE: the request's `data`  dispatch.c's
 *                                                 (a small one is a copy, and
 *                                                 the reader keeps its block)
 *   request_start()                                                            its image's queue's
 *     | the image has failed: it is answered with that errno, and freed.
 *     v
 *   open_image_admit()   parked, linked by turn.next, until there is room      the queue's
 *     v
 *   open_image_leave()   of another request: run, linked by turn.ready         who calls it
 *     v
 *   submit()    running, linked by turn.previous and turn.next. A READ         librbd's, by the
 *     |         gets its `data` now.                                           completion's argument
 *     v
 *   on_completion()      on a thread of librbd. O_DSYNC: once more by submit(), as a flush.
 *     v
 *   finish()    answers (reply.c), leaves the queue, drops its registration,   librbd's thread's,
 *               gives `data` back to the pool, and leaves mux->inflight.       which frees it
 *
 * Who sets `answered` answers: finish(), or before it request_fail_all() or request_interrupt(). A
 * request that was answered early lives on like any other until its completion, because librbd may
 * still use its data. From request_start() to finish() it is in mux->inflight (linked by
 * inflight.next in its bucket), so that it is found by its number and the mux is not freed under
 * it.
 */
#ifndef RBDFS_REQUEST_H
#define RBDFS_REQUEST_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "block.h"
#include "inflight.h"
#include "meters.h"
#include "open_image.h"
#include "registration.h"

struct mux;

enum request_kind { REQUEST_READ, REQUEST_WRITE, REQUEST_FLUSH };

struct request {
    struct turn turn; /* first: the queue hands it back */
    struct inflight_entry inflight;
    struct mux *mux;
    struct registration *registration; /* with a reference */
    struct open_image *image;          /* the registration's */
    struct block *data;                /* of a WRITE; of a READ from its submission on; or NULL */
    uint64_t offset;                   /* in the image */
    uint64_t fh; /* the registration's, which may be gone while request_list_waiting() looks */
    uint32_t opcode;
    uint32_t length;
    enum request_kind kind;
    enum meter_operation operation;
    uint64_t begun_ns; /* when it was read from the kernel, by meter_begin() */
    bool flush_after; /* a WRITE of a file that was opened with O_DSYNC */
    bool flushing;    /* and its data are written: the flush is under way */
    bool direct;      /* a READ past the page cache: its caller is no page fault */
    uint32_t pid;     /* the thread that waits for it */
    atomic_bool answered;
};

/* A request whose fields are still to be set; NULL if there is no memory. */
struct request *request_new(struct mux *mux, uint64_t unique);
/* Begin a request whose registration (with the caller's reference), fh, opcode, kind, offset,
 * length, operation, begun_ns, flush_after, direct, pid and, for a WRITE, data are set. It must not
 * be touched any more. */
void request_start(struct request *request);
/* Answer every request of the image with `error`, now and in future. Those that librbd has are
 * answered at once, and keep their memory until it is done with them. */
void request_fail_all(struct open_image *image, int error);
/* Whether a READ with this number is not answered yet, whose thread it is, and whether it is
 * direct. */
bool request_is_waiting_read(struct mux *mux, uint64_t unique, uint32_t *pid, bool *direct);
/* A file whose request waits, and since when. */
struct waiting {
    uint64_t fh, begun_ns;
};
/* Put requests that were begun before this time and are not answered yet, `room` of them at most;
 * returns how many, and in *oldest_ns when the oldest of all has begun, or UINT64_MAX. */
size_t request_list_waiting(struct mux *mux, uint64_t before_ns, struct waiting *found, size_t room,
                            uint64_t *oldest_ns);
/* Answer such a READ with EINTR, if it still waits. */
void request_interrupt(struct mux *mux, uint64_t unique);

#endif
