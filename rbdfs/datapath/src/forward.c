#define _GNU_SOURCE
#include "forward.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "interrupts.h"
#include "mux.h"
#include "reply.h"

void reject(const struct arrival *arrival, int error)
{
    mux_count(&arrival->mux->stats.malformed, 1);
    if (has_reply(arrival->in->opcode))
        mux_reply_error(arrival->mux, arrival->in->unique, error);
}

static bool is_open(uint32_t opcode)
{
    return opcode == FUSE_OPEN || opcode == FUSE_CREATE;
}

/* Whether a request changes nothing, and what it hands out can be taken back (abandoned.h). */
static bool is_constant(const struct arrival *arrival)
{
    const struct fuse_open_in *open = arrival->body;

    switch (arrival->in->opcode) {
    case FUSE_OPEN:
        return arrival->size >= sizeof *open && !(open->flags & O_TRUNC);
    case FUSE_LOOKUP:
    case FUSE_GETATTR:
    case FUSE_READLINK:
    case FUSE_READ:
    case FUSE_STATFS:
    case FUSE_GETXATTR:
    case FUSE_LISTXATTR:
    case FUSE_OPENDIR:
    case FUSE_READDIR:
    case FUSE_READDIRPLUS:
    case FUSE_ACCESS:
    case FUSE_LSEEK:
        return true;
    default:
        return false;
    }
}

/* Whether a READ fills the page cache, for all that can be told of a file that is not registered. */
static bool is_paged(const struct arrival *arrival)
{
    const struct fuse_read_in *read = arrival->body;

    return arrival->in->opcode == FUSE_READ && arrival->size >= sizeof *read &&
           !(read->flags & O_DIRECT);
}

static bool add_pending(const struct arrival *arrival, bool python)
{
    const struct fuse_in_header *in = arrival->in;
    struct pending_request request = {
        .unique = in->unique,
        .nodeid = in->nodeid,
        .opcode = in->opcode,
        .pid = in->pid,
        .python = python,
        .constant = is_constant(arrival),
        .paged = is_paged(arrival),
    };

    return pending_add(&arrival->mux->pending, &request);
}

void pass_on(const struct arrival *arrival)
{
    struct mux *mux = arrival->mux;

    mux_count(&mux->stats.passed_on, 1);
    if (has_reply(arrival->in->opcode))
        mux_add_unreplied(mux, 1);
    if (is_constant(arrival) || runs_once(arrival->in->opcode))
        callers_add(&mux->callers, arrival->in, arrival->body, arrival->size);
    /* Without memory a request cannot be interrupted, and an open gets no flags of ours. */
    if (is_constant(arrival) || is_open(arrival->in->opcode))
        add_pending(arrival, false);
    outlet_send(&mux->pyfuse3, (const void *)arrival->in, arrival->in->len);
}

void refuse(const struct arrival *arrival)
{
    struct mux *mux = arrival->mux;
    struct fuse_in_header in = *arrival->in;

    in.len = sizeof in;
    in.opcode |= OPCODE_REFUSED;
    mux_count(&mux->stats.refused, 1);
    if (!add_pending(arrival, true)) {
        mux_reply_error(mux, in.unique, EIO);
        return;
    }
    mux_add_unreplied(mux, 1);
    outlet_send(&mux->extra, (const void *)&in, sizeof in);
}

/* Python changes the image for this request: a later FLUSH has something to flush. */
static void mark_dirty(struct mux *mux, uint64_t fh)
{
    struct registration *registration = table_find(&mux->table, fh);

    if (!registration)
        return;
    atomic_store(&registration->dirty, true);
    registration_unref(registration);
}

/* pyfuse3 hears of it when the last request of the file is complete: the image may be closed
 * then. */
void on_release(const struct arrival *arrival)
{
    const struct fuse_release_in *release = arrival->body;
    struct mux *mux = arrival->mux;
    struct registration *registration = NULL;

    if (arrival->size < sizeof *release) {
        reject(arrival, EINVAL);
        return;
    }
    registration = table_remove(&mux->table, release->fh);
    if (registration)
        registration->release_message = message_copy((const void *)arrival->in, arrival->in->len);
    if (registration && registration->release_message) {
        mux_count(&mux->stats.passed_on, 1);
        mux_add_unreplied(mux, 1);
    } else {
        pass_on(arrival);
    }
    if (registration)
        registration_unref(registration);
}

void on_extra(const struct arrival *arrival, size_t fh_offset)
{
    struct mux *mux = arrival->mux;
    uint64_t fh;

    if (arrival->size < fh_offset + sizeof fh) {
        reject(arrival, EINVAL);
        return;
    }
    memcpy(&fh, (const char *)arrival->body + fh_offset, sizeof fh);
    if (!is_constant(arrival))
        mark_dirty(mux, fh);
    mux_count(&mux->stats.extra, 1);
    if (!add_pending(arrival, true)) {
        mux_reply_error(mux, arrival->in->unique, ENOMEM);
        return;
    }
    mux_add_unreplied(mux, 1);
    outlet_send(&mux->extra, (const void *)arrival->in, arrival->in->len);
}

void on_interrupt(const struct arrival *arrival)
{
    const struct fuse_interrupt_in *interrupt = arrival->body;

    /* It has no answer: one would ask the kernel to send it again. libfuse, which might give one,
     * does not hear of it. */
    if (arrival->size < sizeof *interrupt)
        reject(arrival, EINVAL);
    else
        interrupt_request(arrival->mux, interrupt->unique);
}
