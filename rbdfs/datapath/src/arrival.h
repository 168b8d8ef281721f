/* A message of the kernel on its way through dispatch.c and forward.c. */
#ifndef RBDFS_ARRIVAL_H
#define RBDFS_ARRIVAL_H

#include <stdbool.h>

#include "mux.h"

/* A message whole and as the kernel sent it. `body` has `size` bytes after the header. */
struct arrival {
    struct mux *mux;
    struct block **block; /* where it is */
    const struct fuse_in_header *in;
    const void *body;
    size_t size;
};

/* Answer what is not as it should be. */
void reject(const struct arrival *arrival, int error);
void pass_on(const struct arrival *arrival);

void on_open(const struct arrival *arrival);
void on_release(const struct arrival *arrival);
/* What pyfuse3 does not know. `dirty` is the place in the body of the fh whose image it changes. */
void on_extra(const struct arrival *arrival, size_t dirty);
void on_interrupt(const struct arrival *arrival);

#endif
