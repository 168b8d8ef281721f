#include "request.h"

#include <errno.h>
#include <rbd/librbd.h>

#include "mux.h"

static void submit(struct request *request);
static void submit_ready(struct request *first);

static void answer(struct request *request, ssize_t result)
{
    struct mux *mux = request->mux;

    if (atomic_exchange(&request->answered, true))
        return;
    if (result < 0) {
        mux_count(&mux->stats.errors, 1);
        mux_reply_error(mux, request->unique, (int)-result);
    } else if (request->kind == REQUEST_READ) {
        mux_reply_in_place(mux, request->unique, block_data(&request->block), request->length);
    } else if (request->kind == REQUEST_WRITE) {
        struct fuse_write_out out = {.size = request->length};
        mux_reply(mux, request->unique, &out, sizeof out);
    } else {
        mux_reply(mux, request->unique, NULL, 0);
    }
}

/* Give back what the request holds. Nothing may touch the mux after the last line. */
static void release(struct request *request)
{
    struct mux *mux = request->mux;

    handle_unref(request->handle);
    pool_put(&mux->pool, &request->block);
    mux_end_request(mux);
}

static void complete(struct request *request, ssize_t result)
{
    struct request *ready;

    /* Anything else than what was asked for is an error, and never a short count: librbd clips
     * at the end of the image, and the bounds were checked against our own idea of it. */
    if (request->kind == REQUEST_READ && result >= 0 && result != request->length)
        result = -EIO;
    /* A disk has no quota: QEMU pauses its guest upon ENOSPC, and upon nothing else. */
    if (result == -EDQUOT)
        result = -ENOSPC;
    /* The file still has to be flushed. */
    if (request->kind == REQUEST_FLUSH && result < 0)
        atomic_store(&request->handle->dirty, true);
    if (request->kind == REQUEST_WRITE)
        atomic_fetch_add(&request->image->written, 1);
    answer(request, result);
    /* A fenced client stays one under an open file, even when the fence is lifted; and what has timed
     * out may land at any time, so that nothing may be built upon it. */
    if (result == -ESHUTDOWN || result == -ETIMEDOUT)
        request_fail_all(request->image, (int)-result);
    ready = image_leave(request->image, request);
    release(request);
    submit_ready(ready);
}

/* On a thread of librbd. */
static void completed(rbd_completion_t completion, void *arg)
{
    struct request *request = arg;
    ssize_t result = rbd_aio_get_return_value(completion);

    rbd_aio_release(completion);
    if (request->flush_after && !request->written && result >= 0) {
        request->written = true;
        submit(request);
        return;
    }
    complete(request, result);
}

/* The caller must not touch the request any more: it may be complete when this returns. */
static void submit(struct request *request)
{
    rbd_image_t rbd = request->image->rbd;
    char *data = block_data(&request->block);
    rbd_completion_t completion;
    int result = rbd_aio_create_completion(request, completed, &completion);

    if (result < 0) {
        complete(request, result);
        return;
    }
    if (request->kind == REQUEST_FLUSH || request->written)
        result = rbd_aio_flush(rbd, completion);
    else if (request->kind == REQUEST_READ)
        result = rbd_aio_read(rbd, request->offset, request->length, data, completion);
    else
        result = rbd_aio_write(rbd, request->offset, request->length, data, completion);
    /* Not submitted: the completion will not be called. */
    if (result < 0) {
        rbd_aio_release(completion);
        complete(request, result);
    }
}

/* Submit what image_leave() and image_resume() return. */
static void submit_ready(struct request *first)
{
    while (first) {
        struct request *next = first->ready;
        submit(first);
        first = next;
    }
}

void request_start(struct request *request)
{
    int error;

    request->image = request->handle->image;
    atomic_init(&request->answered, false);
    mux_begin_request(request->mux);
    if (image_admit(request->image, request, &error)) {
        submit(request);
    } else if (error) {
        answer(request, -error);
        release(request);
    }
}

void request_resume(struct image *image)
{
    submit_ready(image_resume(image));
}

void request_fail_all(struct image *image, int error)
{
    struct request *parked;

    pthread_mutex_lock(&image->lock);
    atomic_store(&image->failed, error);
    parked = image->parked;
    image->parked = image->parked_last = NULL;
    image->parked_count = 0;
    /* With the lock held they cannot leave: their completions wait for it. */
    for (struct request *request = image->running; request; request = request->next)
        answer(request, -error);
    pthread_mutex_unlock(&image->lock);
    while (parked) {
        struct request *next = parked->next;
        answer(parked, -error);
        release(parked);
        parked = next;
    }
}

static bool in_list(const struct request *request, uint64_t unique)
{
    for (; request; request = request->next)
        if (request->unique == unique)
            return true;
    return false;
}

bool request_on_image(struct image *image, uint64_t unique)
{
    bool found;

    pthread_mutex_lock(&image->lock);
    found = in_list(image->running, unique) || in_list(image->parked, unique);
    pthread_mutex_unlock(&image->lock);
    return found;
}
