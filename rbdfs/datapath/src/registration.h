/* Files that the data path serves, found by the number of the kernel's file handle (`fh`): which
 * image, which part of it, and what is allowed.
 *
 * A registration is the data path's half of an open file, and files/handle.Handle is Python's.
 * Where both have the same field, this is which of them is right:
 *
 *     length  Python's. The one here is a copy, which Mux.set_length() renews; requests are clamped to it.
 *     dirty   the one here while the file is registered, because WRITE and FLUSH come by here then, those
 *             that go on to Python too. It comes with the registration; when that ends, Python takes its
 *             file for dirty.
 *     direct  the one here is what OPEN was answered; for a file that was open before, what Python knows.
 *     writable, offset, the image    Python's; they do not change while a file is registered.
 */
#ifndef RBDFS_REGISTRATION_H
#define RBDFS_REGISTRATION_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "meters.h"
#include "open_image.h"
#include "outlet.h"

struct registration_options {
    uint64_t fh, offset, length;
    bool readable, writable;
    bool ignore_sync;    /* FSYNC, FLUSH and O_DSYNC are answered without a flush */
    bool dirty, direct;  /* what they are at first */
    uint32_t open_flags; /* FOPEN_* to add to the reply of OPEN */
    struct image_meters *meters; /* where its requests are counted; NULL: nowhere */
};

struct registration {
    struct registration *next; /* in its bucket */
    /* The table has one reference, and every request under way: what was unregistered, and whose
     * number may name another file by now, stays until its last request is complete. */
    atomic_int references;
    uint64_t fh;
    struct open_image *image;
    uint64_t offset; /* in the image, of the file's first byte */
    _Atomic uint64_t length;
    bool readable, writable, ignore_sync;
    uint32_t open_flags;
    struct image_meters *meters;
    atomic_bool dirty;  /* written since the last flush */
    atomic_bool direct; /* the kernel was told to keep no pages of it */
    struct outlet *pyfuse3;
    struct message *release_message; /* RELEASE, passed on when the last request is complete */
};

struct table {
    pthread_mutex_t lock;
    struct registration **buckets;
    size_t bucket_count; /* a power of two */
    size_t count;
};

/* 0 or ENOMEM. */
int table_init(struct table *table);
/* Unregister everything. */
void table_clear(struct table *table);
void table_destroy(struct table *table);

/* 0, EEXIST, ENOMEM, or EBUSY if the image is being closed. RELEASE is passed on through
 * `pyfuse3`. */
int table_add(struct table *table, struct open_image *image,
              const struct registration_options *options, struct outlet *pyfuse3);
/* The registration with a reference for the caller, or NULL. */
struct registration *table_find(struct table *table, uint64_t fh);
/* The same, and it has left the table. */
struct registration *table_remove(struct table *table, uint64_t fh);
/* Drop a reference. The last one frees the registration, and passes its RELEASE on. */
void registration_unref(struct registration *registration);

#endif
