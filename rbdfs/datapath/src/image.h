/* An open librbd image, its requests under way, and those that wait for their turn. */
#ifndef RBDFS_IMAGE_H
#define RBDFS_IMAGE_H

#include <pthread.h>
#include <rbd/librbd.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

struct request;

struct image {
    atomic_int references;
    rbd_image_t rbd;
    atomic_ullong written; /* writes of the kernel that are complete, before they are answered */
    atomic_int failed; /* an errno: what every request is answered with from then on */

    pthread_mutex_t lock;
    pthread_cond_t idle; /* nothing is under way in librbd */
    struct request *running;
    struct request *parked, *parked_last;
    unsigned running_count, parked_count;
    size_t running_bytes;
    /* What librbd gets of one image at a time; what is above waits here. */
    unsigned max_requests;
    size_t max_bytes;
    unsigned foreign; /* requests of others (Python's aio_*) under way in librbd */
    unsigned registered; /* handles in a table */
    unsigned handles;    /* those, and others that requests under way still have */
    bool suspended;
    bool closing; /* takes no new handle and no foreign request */
};

/* One reference, for an image that librbd has opened; NULL if there is no memory. */
struct image *image_new(rbd_image_t rbd);
struct image *image_ref(struct image *image);
void image_unref(struct image *image);

/* Count a handle, or a foreign request: false if the image is being closed. */
bool image_add_handle(struct image *image);
/* It is in no table any more, so that no new request can find it. */
void image_unregister_handle(struct image *image);
void image_remove_handle(struct image *image);
bool image_begin_foreign(struct image *image);
void image_end_foreign(struct image *image);

/* Stop taking requests, and wait until librbd has none, nor anybody a handle: 0, EBUSY if handles are
 * registered (nothing is changed then), ETIMEDOUT at the deadline (the image takes requests again). */
int image_quiesce(struct image *image, const struct timespec *deadline);

/* Wait until librbd has none: 0 or ETIMEDOUT. */
int image_wait_idle(struct image *image, const struct timespec *deadline);

void image_limit(struct image *image, unsigned max_requests, size_t max_bytes);
/* Park new requests from here on, until image_resume(). */
void image_suspend(struct image *image);

/* For request.c. A request belongs to one list at a time. */

/* True: it is under way now, submit it. False: it was parked, or failed with *error. */
bool image_admit(struct image *image, struct request *request, int *error);
/* A request is complete. The parked ones whose turn it is are under way now: a list by `next`. */
struct request *image_leave(struct image *image, struct request *request);
struct request *image_resume(struct image *image);

#endif
