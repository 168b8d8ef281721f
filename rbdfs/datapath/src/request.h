/* A request of the kernel that librbd carries out: from its submission to its answer. */
#ifndef RBDFS_REQUEST_H
#define RBDFS_REQUEST_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "block.h"
#include "handle.h"
#include "image.h"

struct mux;

enum request_kind { REQUEST_READ, REQUEST_WRITE, REQUEST_FLUSH };

struct request {
    struct block block; /* first: the request lives in the head of its own block */
    struct request *previous, *next;
    struct request *ready; /* the next one to submit */
    struct mux *mux;
    struct handle *handle; /* with a reference */
    struct image *image;
    uint64_t unique;
    uint64_t offset; /* in the image */
    uint32_t length;
    enum request_kind kind;
    bool flush_after; /* a WRITE of a file that was opened with O_DSYNC */
    bool written;     /* and that has been written: its flush is under way */
    /* Whoever sets it answers: the completion, or request_fail_all() before it. */
    atomic_bool answered;
};

_Static_assert(sizeof(struct request) + WRITE_HEAD_BYTES <= BLOCK_HEAD_BYTES, "request too large");

/* Begin a request whose mux, handle (with the caller's reference), unique, offset, length, kind and
 * data are set. The request is the callee's from here on. */
void request_start(struct request *request);
/* Submit what was parked while the image was suspended. */
void request_resume(struct image *image);
/* Answer every request of the image with `error`, now and in future. Those that librbd has are
 * answered at once, and keep their memory until it is done with them. */
void request_fail_all(struct image *image, int error);
/* Whether a request with this number is under way or parked on the image. */
bool request_on_image(struct image *image, uint64_t unique);

#endif
