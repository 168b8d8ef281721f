/* An image that librbd has open, and the queue of its requests: those that librbd has (running),
 * and those that wait for their turn (parked). It is the C half of native.Image.
 *
 * A request stands in the queue by its `struct turn`, and is in one of the two lists at a time.
 */
#ifndef RBDFS_OPEN_IMAGE_H
#define RBDFS_OPEN_IMAGE_H

#include <pthread.h>
#include <rbd/librbd.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A request's place in the queue. */
struct turn {
    struct turn *previous, *next; /* in the running list; the parked list uses `next` alone */
    struct turn *ready;           /* the next one of those that open_image_leave() has returned */
    uint32_t bytes;
};

struct open_image {
    atomic_int references;
    rbd_image_t rbd;
    /* The WRITEs of the kernel that librbd has completed, counted before they are answered. */
    atomic_ullong completed_writes;
    /* 0, or the errno that every request is answered with from then on. */
    atomic_int failed;

    pthread_mutex_t lock;
    pthread_cond_t idle; /* nothing is under way in librbd */
    struct turn *running;
    struct turn *parked, *parked_last;
    unsigned running_count;
    size_t running_bytes;
    /* librbd has at most so many requests of the image at a time, and so many bytes; more are
     * parked. */
    unsigned max_requests;
    size_t max_bytes;
    unsigned calls;      /* calls of librbd by Python that are under way, its aio_* included */
    unsigned registered; /* registrations in a table */
    unsigned registrations; /* those, and those that requests under way still refer to */
    bool closing;           /* it takes no new registration and no new call */
};

/* One reference, for an image that librbd has opened; NULL if there is no memory. */
struct open_image *open_image_new(rbd_image_t rbd);
struct open_image *open_image_ref(struct open_image *image);
void open_image_unref(struct open_image *image);
void open_image_limit(struct open_image *image, unsigned max_requests, size_t max_bytes);

/* Count a registration: false if the image is being closed. */
bool open_image_add_registration(struct open_image *image);
/* It has left its table, so that no new request can find it. */
void open_image_unregister(struct open_image *image);
/* Nothing refers to it any more. */
void open_image_remove_registration(struct open_image *image);

/* Count a call of Python, with a reference to the image: false if the image is being closed. */
bool open_image_begin_call(struct open_image *image);
/* The call is over. The image may be freed by it. */
void open_image_end_call(struct open_image *image);

/* Take no more requests, and wait until librbd has none and nothing refers to a registration: 0,
 * EBUSY if something is registered (nothing is changed then), or ETIMEDOUT at the deadline (the
 * image takes requests again). */
int open_image_quiesce(struct open_image *image, const struct timespec *deadline);

/* For request.c. */

/* True: the request is running now, and has to be submitted. False: it was parked, or has
 * *error. */
bool open_image_admit(struct open_image *image, struct turn *turn, int *error);
/* A running request is complete. Returns the parked ones whose turn it is, in order, linked by
 * `ready`: they are running now, and have to be submitted. */
struct turn *open_image_leave(struct open_image *image, struct turn *turn);

#endif
