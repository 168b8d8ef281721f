/* Open files of images: which image, which part of it, and what is allowed. Found by their fh. */
#ifndef RBDFS_HANDLE_H
#define RBDFS_HANDLE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "image.h"
#include "outlet.h"

struct handle {
    struct handle *next; /* in its bucket */
    /* The table has one, and every request under way: a handle that was released, and whose number
     * may name another one by now, stays until its last request is complete. */
    atomic_int references;
    uint64_t fh;
    struct image *image;
    uint64_t offset; /* in the image, of the file's first byte */
    _Atomic uint64_t length;
    bool readable, writable;
    bool ignore_sync;    /* FSYNC, FLUSH and O_DSYNC are answered without a flush */
    uint32_t open_flags; /* FOPEN_* to add to the reply of OPEN */
    atomic_bool dirty;   /* written since the last flush */
    struct outlet *pyfuse3;
    struct message *release; /* passed on when the last request is complete */
};

struct handle_options {
    uint64_t fh, offset, length;
    bool readable, writable, ignore_sync;
    uint32_t open_flags;
};

struct table {
    pthread_mutex_t lock;
    struct handle **buckets;
    size_t bucket_count; /* a power of two */
    size_t count;
};

/* 0 or ENOMEM. */
int table_init(struct table *table);
/* Forget every handle. */
void table_clear(struct table *table);
void table_destroy(struct table *table);

/* 0, EEXIST, ENOMEM, or EBUSY if the image is being closed. The RELEASE of the handle is passed on
 * through `pyfuse3`. */
int table_add(struct table *table, struct image *image, const struct handle_options *options,
              struct outlet *pyfuse3);
/* The handle with a reference for the caller, or NULL. */
struct handle *table_find(struct table *table, uint64_t fh);
/* The same, and it is no longer in the table. */
struct handle *table_remove(struct table *table, uint64_t fh);
/* Drop a reference. The last one frees the handle, and passes its RELEASE on. */
void handle_unref(struct handle *handle);

/* Whether `test` is true of an image that a handle in the table has. */
bool table_any_image(struct table *table, bool (*test)(struct image *, uint64_t), uint64_t arg);

#endif
