/* A message of the kernel on its way through dispatch.c and forward.c. */
#ifndef RBDFS_ARRIVAL_H
#define RBDFS_ARRIVAL_H

#include <stddef.h>

#include "block.h"

struct mux;

/* A message whole and as the kernel sent it. `body` has `size` bytes after the header. */
struct arrival {
    struct mux *mux;
    struct block **block; /* where it is: set to NULL by who takes the block over */
    const struct fuse_in_header *in;
    const void *body;
    size_t size;
};

#endif
