#include "forward.h"

#include <errno.h>
#include <string.h>

#include "mux.h"
#include "reply.h"
#include "request.h"

void reject(const struct arrival *arrival, int error)
{
    mux_count(&arrival->mux->stats.malformed, 1);
    if (has_reply(arrival->in->opcode))
        mux_reply_error(arrival->mux, arrival->in->unique, error);
}

void pass_on(const struct arrival *arrival)
{
    struct mux *mux = arrival->mux;

    mux_count(&mux->stats.passed_on, 1);
    if (has_reply(arrival->in->opcode))
        mux_add_unreplied(mux, 1);
    callers_add(&mux->callers, arrival->in);
    outlet_send(&mux->pyfuse3, (const void *)arrival->in, arrival->in->len);
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
    if (arrival->in->opcode != FUSE_LSEEK)
        mark_dirty(mux, fh);
    mux_count(&mux->stats.extra, 1);
    if (!uniques_add(&mux->extras, arrival->in->unique)) {
        mux_reply_error(mux, arrival->in->unique, ENOMEM);
        return;
    }
    mux_add_unreplied(mux, 1);
    outlet_send(&mux->extra, (const void *)arrival->in, arrival->in->len);
}

/* librbd cannot take a request back, so the interrupt of one is left unanswered: the kernel goes
 * on waiting for the request itself. libfuse would answer "not yet", and be asked again, without
 * end. */
void on_interrupt(const struct arrival *arrival)
{
    const struct fuse_interrupt_in *interrupt = arrival->body;
    struct mux *mux = arrival->mux;

    if (arrival->size < sizeof *interrupt)
        reject(arrival, EINVAL);
    else if (uniques_contains(&mux->extras, interrupt->unique))
        outlet_send(&mux->extra, (const void *)arrival->in, arrival->in->len);
    else if (!request_is_known(mux, interrupt->unique))
        pass_on(arrival);
}

void on_open(const struct arrival *arrival)
{
    /* Without memory the file is served all the same, with plain open flags. */
    uniques_add(&arrival->mux->opens, arrival->in->unique);
    pass_on(arrival);
}
