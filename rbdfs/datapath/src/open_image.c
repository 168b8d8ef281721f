#define _GNU_SOURCE
#include "open_image.h"

#include <errno.h>
#include <stdlib.h>

#include "thread.h"

struct open_image *open_image_new(rbd_image_t rbd)
{
    struct open_image *image = calloc(1, sizeof *image);

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

struct open_image *open_image_ref(struct open_image *image)
{
    atomic_fetch_add(&image->references, 1);
    return image;
}

void open_image_unref(struct open_image *image)
{
    if (atomic_fetch_sub(&image->references, 1) > 1)
        return;
    pthread_cond_destroy(&image->idle);
    pthread_mutex_destroy(&image->lock);
    free(image);
}

void open_image_limit(struct open_image *image, unsigned max_requests, size_t max_bytes)
{
    pthread_mutex_lock(&image->lock);
    image->max_requests = max_requests;
    image->max_bytes = max_bytes;
    pthread_mutex_unlock(&image->lock);
}

static bool is_idle(const struct open_image *image)
{
    return !image->running_count && !image->calls;
}

static bool is_unused(const struct open_image *image)
{
    return is_idle(image) && !image->registrations;
}

bool open_image_add_registration(struct open_image *image)
{
    bool open;

    pthread_mutex_lock(&image->lock);
    open = !image->closing;
    image->registrations += open;
    image->registered += open;
    pthread_mutex_unlock(&image->lock);
    return open;
}

void open_image_unregister(struct open_image *image)
{
    pthread_mutex_lock(&image->lock);
    image->registered--;
    pthread_mutex_unlock(&image->lock);
}

void open_image_remove_registration(struct open_image *image)
{
    pthread_mutex_lock(&image->lock);
    image->registrations--;
    if (!image->registrations)
        pthread_cond_broadcast(&image->idle);
    pthread_mutex_unlock(&image->lock);
}

bool open_image_begin_call(struct open_image *image)
{
    bool open;

    pthread_mutex_lock(&image->lock);
    open = !image->closing;
    image->calls += open;
    pthread_mutex_unlock(&image->lock);
    if (open)
        open_image_ref(image);
    return open;
}

void open_image_end_call(struct open_image *image)
{
    pthread_mutex_lock(&image->lock);
    image->calls--;
    if (is_idle(image))
        pthread_cond_broadcast(&image->idle);
    pthread_mutex_unlock(&image->lock);
    open_image_unref(image);
}

static int wait_unused(struct open_image *image, const struct timespec *deadline)
{
    while (!is_unused(image))
        if (pthread_cond_timedwait(&image->idle, &image->lock, deadline) == ETIMEDOUT)
            return is_unused(image) ? 0 : ETIMEDOUT;
    return 0;
}

int open_image_quiesce(struct open_image *image, const struct timespec *deadline)
{
    int error = EBUSY;

    pthread_mutex_lock(&image->lock);
    if (!image->registered) {
        image->closing = true;
        /* A request that was read before its file was unregistered may not have begun yet. */
        error = wait_unused(image, deadline);
        image->closing = !error;
    }
    pthread_mutex_unlock(&image->lock);
    return error;
}

/* The rest is called with, or takes, the lock, and keeps the two lists. */

static bool has_room(const struct open_image *image, const struct turn *turn)
{
    if (image->running_count >= image->max_requests)
        return false;
    /* One request always has room, whatever its size. */
    return !image->running_count || image->running_bytes + turn->bytes <= image->max_bytes;
}

static void run(struct open_image *image, struct turn *turn)
{
    turn->previous = NULL;
    turn->next = image->running;
    if (image->running)
        image->running->previous = turn;
    image->running = turn;
    image->running_count++;
    image->running_bytes += turn->bytes;
}

static void park(struct open_image *image, struct turn *turn)
{
    turn->next = NULL;
    if (image->parked_last)
        image->parked_last->next = turn;
    else
        image->parked = turn;
    image->parked_last = turn;
}

static struct turn *unpark(struct open_image *image)
{
    struct turn *turn = image->parked;

    image->parked = turn->next;
    if (!image->parked)
        image->parked_last = NULL;
    return turn;
}

/* Run the parked requests that have room now. */
static struct turn *run_parked(struct open_image *image)
{
    struct turn *first = NULL, **last = &first;

    while (image->parked && has_room(image, image->parked)) {
        struct turn *turn = unpark(image);
        run(image, turn);
        turn->ready = NULL;
        *last = turn;
        last = &turn->ready;
    }
    return first;
}

bool open_image_admit(struct open_image *image, struct turn *turn, int *error)
{
    bool admitted = false;

    pthread_mutex_lock(&image->lock);
    *error = atomic_load(&image->failed);
    if (!*error) {
        /* Behind those that wait already. */
        admitted = !image->parked && has_room(image, turn);
        if (admitted)
            run(image, turn);
        else
            park(image, turn);
    }
    pthread_mutex_unlock(&image->lock);
    return admitted;
}

struct turn *open_image_leave(struct open_image *image, struct turn *turn)
{
    struct turn *ready;

    pthread_mutex_lock(&image->lock);
    if (turn->previous)
        turn->previous->next = turn->next;
    else
        image->running = turn->next;
    if (turn->next)
        turn->next->previous = turn->previous;
    image->running_count--;
    image->running_bytes -= turn->bytes;
    ready = run_parked(image);
    if (is_idle(image))
        pthread_cond_broadcast(&image->idle);
    pthread_mutex_unlock(&image->lock);
    return ready;
}
