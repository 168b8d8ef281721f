/* Requests of Python that librbd has completed, until Python's own thread looks.
 *
 * librbd's threads serve all images of a client: one that waited for the GIL, which Python may keep
 * for milliseconds, would keep the answers to the kernel waiting. So they push onto a list, without
 * a lock, and make an eventfd readable.
 */
#ifndef RBDFS_COMPLETIONS_H
#define RBDFS_COMPLETIONS_H

#include <rbd/librbd.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "open_image.h"

/* A request of Python. Its image counts it as a call until it is on the list. */
struct python_request {
    struct python_request *next;
    struct completions *completions;
    struct open_image *image;
    rbd_completion_t handle;
    ssize_t result;
    void *owner; /* the Python object that it lives in, with a reference */
};

struct completions {
    _Atomic(struct python_request *) last; /* the last one that was pushed; `next` is the one before */
    int event_fd;
};

/* 0 or an errno. */
int completions_init(struct completions *completions);
/* No request may be under way: the images of its requests are closed. */
void completions_destroy(struct completions *completions);
/* What is on the list, in the order in which it was completed. The eventfd is no longer
 * readable. */
struct python_request *completions_take(struct completions *completions);

/* The callback of librbd: `request` is a struct python_request. */
void on_python_completion(rbd_completion_t handle, void *request);

#endif
