#include "mux.h"

#include <errno.h>
#include <unistd.h>

int mux_register(struct mux *mux, struct open_image *image,
                 const struct registration_options *options)
{
    open_image_limit(image, mux->settings.image_requests, mux->settings.image_bytes);
    return table_add(&mux->table, image, options, &mux->pyfuse3);
}

int mux_set_length(struct mux *mux, uint64_t fh, uint64_t length)
{
    struct registration *registration = table_find(&mux->table, fh);
    int error = 0;

    if (!registration)
        return ENOENT;
    if (length > INT64_MAX - registration->offset)
        error = EINVAL;
    else
        atomic_store(&registration->length, length);
    registration_unref(registration);
    return error;
}

struct mux_gauges mux_read_gauges(struct mux *mux)
{
    struct mux_gauges gauges;

    pthread_mutex_lock(&mux->lock);
    gauges.active = mux->inflight.count;
    gauges.unreplied = mux->unreplied;
    pthread_mutex_unlock(&mux->lock);
    pthread_mutex_lock(&mux->table.lock);
    gauges.registered = mux->table.count;
    pthread_mutex_unlock(&mux->table.lock);
    return gauges;
}

void mux_begin_request(struct mux *mux, struct inflight_entry *entry)
{
    pthread_mutex_lock(&mux->lock);
    inflight_add(&mux->inflight, entry);
    pthread_mutex_unlock(&mux->lock);
}

void mux_end_request(struct mux *mux, struct inflight_entry *entry)
{
    /* The count falls with the lock held, so that nobody frees the mux under the unlocking
     * thread. */
    pthread_mutex_lock(&mux->lock);
    inflight_remove(&mux->inflight, entry);
    if (!mux->inflight.count)
        pthread_cond_broadcast(&mux->drained);
    pthread_mutex_unlock(&mux->lock);
}

void mux_add_unreplied(struct mux *mux, int count)
{
    pthread_mutex_lock(&mux->lock);
    mux->unreplied += count;
    if (mux->unreplied <= 0)
        pthread_cond_broadcast(&mux->drained);
    pthread_mutex_unlock(&mux->lock);
}

void mux_end(struct mux *mux, int error)
{
    int none = 0;
    uint64_t one = 1;

    if (atomic_compare_exchange_strong(&mux->ended, &none, error))
        (void)!write(mux->ended_fd, &one, sizeof one);
}
