#include <errno.h>
#include <string.h>

#include "arrival.h"
#include "request.h"

bool has_reply(uint32_t opcode)
{
    return opcode != FUSE_FORGET && opcode != FUSE_BATCH_FORGET && opcode != FUSE_INTERRUPT &&
           opcode != FUSE_NOTIFY_REPLY;
}

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
    outlet_send(&mux->pyfuse3, (const void *)arrival->in, arrival->in->len);
}

/* Python changes the image for this request: a later FLUSH has something to flush. */
static void mark_dirty(struct mux *mux, uint64_t fh)
{
    struct handle *handle = table_find(&mux->table, fh);

    if (!handle)
        return;
    atomic_store(&handle->dirty, true);
    handle_unref(handle);
}

/* pyfuse3 hears of it when the last request of the handle is complete: the image may be closed then. */
void on_release(const struct arrival *arrival)
{
    const struct fuse_release_in *release = arrival->body;
    struct mux *mux = arrival->mux;
    struct handle *handle = NULL;

    if (arrival->size < sizeof *release) {
        reject(arrival, EINVAL);
        return;
    }
    handle = table_remove(&mux->table, release->fh);
    if (handle)
        handle->release = message_copy((const void *)arrival->in, arrival->in->len);
    if (handle && handle->release) {
        mux_count(&mux->stats.passed_on, 1);
        mux_add_unreplied(mux, 1);
    } else {
        pass_on(arrival);
    }
    if (handle)
        handle_unref(handle);
}

void on_extra(const struct arrival *arrival, size_t dirty)
{
    struct mux *mux = arrival->mux;
    uint64_t fh;

    if (arrival->size < dirty + sizeof fh) {
        reject(arrival, EINVAL);
        return;
    }
    memcpy(&fh, (const char *)arrival->body + dirty, sizeof fh);
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

/* librbd cannot take a request back, so the interrupt of one is left unanswered: the kernel goes on
 * waiting for the request itself. libfuse would answer "not yet", and be asked again, without end. */
void on_interrupt(const struct arrival *arrival)
{
    const struct fuse_interrupt_in *interrupt = arrival->body;
    struct mux *mux = arrival->mux;

    if (arrival->size < sizeof *interrupt)
        reject(arrival, EINVAL);
    else if (uniques_contains(&mux->extras, interrupt->unique))
        outlet_send(&mux->extra, (const void *)arrival->in, arrival->in->len);
    else if (!table_any_image(&mux->table, request_on_image, interrupt->unique))
        pass_on(arrival);
}

void on_open(const struct arrival *arrival)
{
    /* Without memory the file is served all the same, with plain open flags. */
    uniques_add(&arrival->mux->opens, arrival->in->unique);
    pass_on(arrival);
}
