#include "request.h"

#include <errno.h>
#include <rbd/librbd.h>
#include <stdlib.h>

#include "errnos.h"
#include "mux.h"
#include "reply.h"
#include "thread.h"

static struct request *request_of(struct turn *turn)
{
    return (struct request *)turn; /* its first member */
}

static struct request *request_in(struct inflight_entry *entry)
{
    return (struct request *)((char *)entry - offsetof(struct request, inflight));
}

struct request *request_new(struct mux *mux, uint64_t unique)
{
    struct request *request = calloc(1, sizeof *request);

    if (!request)
        return NULL;
    request->mux = mux;
    request->inflight.unique = unique;
    atomic_init(&request->answered, false);
    return request;
}

/* Before the answer: whoever has it finds it counted. */
static void count(struct request *request, int error)
{
    uint64_t now = meter_end(request->registration->meters, request->operation,
                             request->begun_ns, request->length, error);

    if (now && !error)
        meters_cluster_answered(&request->mux->meters, now);
}

static void trace_answer(const struct request *request, int error)
{
    struct trace_record record = {
        .fh = request->fh,
        .offset = request->offset - request->registration->offset,
        .length = request->length,
        .opcode = request->opcode,
        .duration_ns = now_ns() - request->begun_ns,
        .error = error,
    };

    trace_add(&request->mux->trace, &record);
}

static void answer(struct request *request, ssize_t result)
{
    struct mux *mux = request->mux;
    uint64_t unique = request->inflight.unique;
    int error = 0;

    if (atomic_exchange(&request->answered, true))
        return;
    if (result < 0)
        error = answered_errno(request->kind != REQUEST_READ, (int)-result);
    count(request, error);
    /* Before the answer: a RELEASE may come right after it. */
    if (mux->trace.on)
        trace_answer(request, error);
    if (error) {
        mux_count(&mux->stats.errors, 1);
        mux_reply_error(mux, unique, error);
    } else if (request->kind == REQUEST_READ) {
        mux_reply_in_place(mux, unique, block_data(request->data), request->length);
    } else if (request->kind == REQUEST_WRITE) {
        struct fuse_write_out out = {.size = request->length};
        mux_reply(mux, unique, &out, sizeof out);
    } else {
        mux_reply(mux, unique, NULL, 0);
    }
}

/* Free the request and what it holds. */
static void discard(struct request *request)
{
    registration_unref(request->registration);
    if (request->data)
        pool_put(&request->mux->pool, request->data);
    mux_end_request(request->mux, &request->inflight);
    free(request);
}

/* End a running request. Returns those whose turn it is now: they have to be submitted. */
static struct turn *finish(struct request *request, ssize_t result)
{
    struct turn *ready;

    /* Anything else than what was asked for is an error, and never a short count: librbd clips at
     * the end of the image, and the bounds were checked against our own idea of it. */
    if (request->kind == REQUEST_READ && result >= 0 && result != request->length)
        result = -EIO;
    /* The file still has to be flushed. */
    if (request->kind == REQUEST_FLUSH && result < 0)
        atomic_store(&request->registration->dirty, true);
    if (request->kind == REQUEST_WRITE)
        atomic_fetch_add(&request->image->completed_writes, 1);
    /* A fenced client stays one under an open file, even when the fence is lifted; and what has
     * timed out may land at any time, so that nothing may be built upon it. That comes before the
     * answer: who gets it must not see the next request succeed. */
    if (result == -ESHUTDOWN || result == -ETIMEDOUT)
        request_fail_all(request->image, (int)-result);
    answer(request, result);
    ready = open_image_leave(request->image, &request->turn);
    discard(request);
    return ready;
}

static void submit_ready(struct turn *ready);
static int submit(struct request *request);

/* On a thread of librbd. */
static void on_completion(rbd_completion_t completion, void *arg)
{
    struct request *request = arg;
    ssize_t result = rbd_aio_get_return_value(completion);

    rbd_aio_release(completion);
    if (request->flush_after && !request->flushing && result >= 0) {
        request->flushing = true;
        result = submit(request);
        if (!result)
            return;
    }
    submit_ready(finish(request, result));
}

/* Give a running request to librbd: 0, and it may be complete already, or a negative errno. */
static int submit(struct request *request)
{
    rbd_image_t rbd = request->image->rbd;
    rbd_completion_t completion;
    int result;

    if (atomic_load(&request->answered) && !request->flushing)
        return -EINTR; /* while it was parked */
    if (request->kind == REQUEST_READ) {
        request->data = pool_get(&request->mux->pool, request->length);
        if (!request->data)
            return -ENOMEM;
    }
    result = rbd_aio_create_completion(request, on_completion, &completion);
    if (result < 0)
        return result;
    if (request->kind == REQUEST_FLUSH || request->flushing)
        result = rbd_aio_flush(rbd, completion);
    else if (request->kind == REQUEST_READ)
        result = rbd_aio_read(rbd, request->offset, request->length, block_data(request->data),
                              completion);
    else
        result = rbd_aio_write(rbd, request->offset, request->length, block_data(request->data),
                               completion);
    if (result >= 0)
        return 0;
    /* Not submitted: the completion will not be called. */
    rbd_aio_release(completion);
    return result;
}

/* Submit a list of running requests, and those that get their turn because one of them fails at
 * once. */
static void submit_ready(struct turn *ready)
{
    while (ready) {
        struct request *request = request_of(ready);
        int result;

        ready = ready->ready;
        result = submit(request);
        if (result < 0) {
            struct turn **last = &ready;
            while (*last)
                last = &(*last)->ready;
            *last = finish(request, result);
        }
    }
}

void request_start(struct request *request)
{
    int error;

    request->image = request->registration->image;
    request->turn.bytes = request->length;
    mux_begin_request(request->mux, &request->inflight);
    if (open_image_admit(request->image, &request->turn, &error)) {
        request->turn.ready = NULL;
        submit_ready(&request->turn);
    } else if (error) {
        answer(request, -error);
        discard(request);
    }
}

void request_fail_all(struct open_image *image, int error)
{
    struct turn *parked;

    pthread_mutex_lock(&image->lock);
    atomic_store(&image->failed, error);
    parked = image->parked;
    image->parked = image->parked_last = NULL;
    /* With the lock held they cannot leave: their completions wait for it. */
    for (struct turn *turn = image->running; turn; turn = turn->next)
        answer(request_of(turn), -error);
    pthread_mutex_unlock(&image->lock);
    while (parked) {
        struct turn *next = parked->next;
        answer(request_of(parked), -error);
        discard(request_of(parked));
        parked = next;
    }
}

/* With the mux's lock held, so that it does not end meanwhile: a READ that is not answered, or
 * NULL. */
static struct request *find_waiting_read(struct mux *mux, uint64_t unique)
{
    struct inflight_entry *entry = inflight_find(&mux->inflight, unique);
    struct request *request;

    if (!entry)
        return NULL;
    request = request_in(entry);
    if (request->kind != REQUEST_READ || atomic_load(&request->answered))
        return NULL;
    return request;
}

bool request_is_waiting_read(struct mux *mux, uint64_t unique, uint32_t *pid, bool *direct)
{
    struct request *request;

    pthread_mutex_lock(&mux->lock);
    request = find_waiting_read(mux, unique);
    if (request) {
        *pid = request->pid;
        *direct = request->direct;
    }
    pthread_mutex_unlock(&mux->lock);
    return request;
}

static size_t list_waiting(const struct inflight *inflight, uint64_t before_ns,
                           struct waiting *found, size_t room, uint64_t *oldest_ns)
{
    size_t count = 0;

    for (size_t i = 0; i < INFLIGHT_BUCKETS; i++) {
        for (struct inflight_entry *entry = inflight->buckets[i]; entry; entry = entry->next) {
            const struct request *request = request_in(entry);

            if (atomic_load(&request->answered))
                continue;
            if (request->begun_ns < *oldest_ns)
                *oldest_ns = request->begun_ns;
            if (request->begun_ns < before_ns && count < room)
                found[count++] = (struct waiting){request->fh, request->begun_ns};
        }
    }
    return count;
}

size_t request_list_waiting(struct mux *mux, uint64_t before_ns, struct waiting *found, size_t room,
                            uint64_t *oldest_ns)
{
    size_t count = 0;

    *oldest_ns = UINT64_MAX;
    pthread_mutex_lock(&mux->lock);
    if (mux->inflight.count)
        count = list_waiting(&mux->inflight, before_ns, found, room, oldest_ns);
    pthread_mutex_unlock(&mux->lock);
    return count;
}

void request_interrupt(struct mux *mux, uint64_t unique)
{
    struct request *request;

    pthread_mutex_lock(&mux->lock);
    request = find_waiting_read(mux, unique);
    if (request) {
        mux_count(&mux->stats.interrupted, 1);
        answer(request, -EINTR);
    }
    pthread_mutex_unlock(&mux->lock);
}
