#define _GNU_SOURCE
#include "image.h"

#include <errno.h>
#include <stdlib.h>

#include "request.h"
#include "thread.h"

struct image *image_new(rbd_image_t rbd)
{
    struct image *image = calloc(1, sizeof *image);

    if (!image)
        return NULL;
    image->rbd = rbd;
    image->max_requests = 256;
    image->max_bytes = 64 << 20;
    atomic_init(&image->references, 1);
    pthread_mutex_init(&image->lock, NULL);
    monotonic_cond_init(&image->idle);
    return image;
}

struct image *image_ref(struct image *image)
{
    atomic_fetch_add(&image->references, 1);
    return image;
}

void image_unref(struct image *image)
{
    if (atomic_fetch_sub(&image->references, 1) > 1)
        return;
    pthread_cond_destroy(&image->idle);
    pthread_mutex_destroy(&image->lock);
    free(image);
}

bool image_add_handle(struct image *image)
{
    bool open;

    pthread_mutex_lock(&image->lock);
    open = !image->closing;
    image->handles += open;
    image->registered += open;
    pthread_mutex_unlock(&image->lock);
    return open;
}

void image_unregister_handle(struct image *image)
{
    pthread_mutex_lock(&image->lock);
    image->registered--;
    pthread_mutex_unlock(&image->lock);
}

void image_remove_handle(struct image *image)
{
    pthread_mutex_lock(&image->lock);
    image->handles--;
    if (!image->handles)
        pthread_cond_broadcast(&image->idle);
    pthread_mutex_unlock(&image->lock);
}

static bool is_idle(const struct image *image)
{
    return !image->running_count && !image->foreign;
}

bool image_begin_foreign(struct image *image)
{
    bool open;

    pthread_mutex_lock(&image->lock);
    open = !image->closing;
    image->foreign += open;
    pthread_mutex_unlock(&image->lock);
    return open;
}

void image_end_foreign(struct image *image)
{
    pthread_mutex_lock(&image->lock);
    image->foreign--;
    if (is_idle(image))
        pthread_cond_broadcast(&image->idle);
    pthread_mutex_unlock(&image->lock);
}

static bool is_unused(const struct image *image)
{
    return is_idle(image) && !image->handles;
}

static int wait_until(struct image *image, bool (*test)(const struct image *),
                      const struct timespec *deadline)
{
    while (!test(image))
        if (pthread_cond_timedwait(&image->idle, &image->lock, deadline) == ETIMEDOUT)
            return test(image) ? 0 : ETIMEDOUT;
    return 0;
}

int image_quiesce(struct image *image, const struct timespec *deadline)
{
    int error = EBUSY;

    pthread_mutex_lock(&image->lock);
    if (!image->registered) {
        image->closing = true;
        /* A request that was read before its handle was unregistered may not have begun yet. */
        error = wait_until(image, is_unused, deadline);
        image->closing = !error;
    }
    pthread_mutex_unlock(&image->lock);
    return error;
}

int image_wait_idle(struct image *image, const struct timespec *deadline)
{
    int error;

    pthread_mutex_lock(&image->lock);
    error = wait_until(image, is_idle, deadline);
    pthread_mutex_unlock(&image->lock);
    return error;
}

void image_limit(struct image *image, unsigned max_requests, size_t max_bytes)
{
    pthread_mutex_lock(&image->lock);
    image->max_requests = max_requests;
    image->max_bytes = max_bytes;
    pthread_mutex_unlock(&image->lock);
}

void image_suspend(struct image *image)
{
    pthread_mutex_lock(&image->lock);
    image->suspended = true;
    pthread_mutex_unlock(&image->lock);
}

/* The rest is called with, or takes, the lock, and keeps the two lists. */

static bool has_room(const struct image *image, const struct request *request)
{
    if (image->suspended || image->running_count >= image->max_requests)
        return false;
    /* One request always has room, whatever its size. */
    return !image->running_count || image->running_bytes + request->length <= image->max_bytes;
}

static void run(struct image *image, struct request *request)
{
    request->previous = NULL;
    request->next = image->running;
    if (image->running)
        image->running->previous = request;
    image->running = request;
    image->running_count++;
    image->running_bytes += request->length;
}

static void park(struct image *image, struct request *request)
{
    request->next = NULL;
    if (image->parked_last)
        image->parked_last->next = request;
    else
        image->parked = request;
    image->parked_last = request;
    image->parked_count++;
}

static struct request *unpark(struct image *image)
{
    struct request *request = image->parked;

    image->parked = request->next;
    if (!image->parked)
        image->parked_last = NULL;
    image->parked_count--;
    return request;
}

/* The parked requests that have room now, in order, linked by `ready`. */
static struct request *run_parked(struct image *image)
{
    struct request *first = NULL, **last = &first;

    while (image->parked && has_room(image, image->parked)) {
        struct request *request = unpark(image);
        run(image, request);
        request->ready = NULL;
        *last = request;
        last = &request->ready;
    }
    return first;
}

bool image_admit(struct image *image, struct request *request, int *error)
{
    bool admitted = false;

    pthread_mutex_lock(&image->lock);
    *error = atomic_load(&image->failed);
    if (!*error) {
        /* Behind those that wait already. */
        admitted = !image->parked && has_room(image, request);
        if (admitted)
            run(image, request);
        else
            park(image, request);
    }
    pthread_mutex_unlock(&image->lock);
    return admitted;
}

struct request *image_leave(struct image *image, struct request *request)
{
    struct request *ready;

    pthread_mutex_lock(&image->lock);
    if (request->previous)
        request->previous->next = request->next;
    else
        image->running = request->next;
    if (request->next)
        request->next->previous = request->previous;
    image->running_count--;
    image->running_bytes -= request->length;
    ready = run_parked(image);
    if (is_idle(image))
        pthread_cond_broadcast(&image->idle);
    pthread_mutex_unlock(&image->lock);
    return ready;
}

struct request *image_resume(struct image *image)
{
    struct request *ready;

    pthread_mutex_lock(&image->lock);
    image->suspended = false;
    ready = run_parked(image);
    pthread_mutex_unlock(&image->lock);
    return ready;
}
