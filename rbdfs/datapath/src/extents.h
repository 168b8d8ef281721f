/* Collecting the extents that rbd_diff_iterate2() reports, joined where they touch. */
#ifndef RBDFS_EXTENTS_H
#define RBDFS_EXTENTS_H

#include <stddef.h>
#include <stdint.h>

struct extent {
    uint64_t offset, length, exists;
};

struct extents {
    struct extent *items;
    size_t count, capacity;
};

/* The callback: `arg` is a struct extents. 0, or -ENOMEM, which ends the iteration. */
int extents_add(uint64_t offset, size_t length, int exists, void *arg);

#endif
