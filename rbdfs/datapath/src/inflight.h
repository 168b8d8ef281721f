/* The requests that librbd carries out, found by the kernel's number of them (`unique`).
 *
 * No lock of its own: who calls holds the mux's.
 */
#ifndef RBDFS_INFLIGHT_H
#define RBDFS_INFLIGHT_H

#include <stddef.h>
#include <stdint.h>

/* As many as max_background lets the kernel have under way: longer chains are slower, and as
 * right. */
enum { INFLIGHT_BUCKETS = 1024 };

struct inflight_entry {
    struct inflight_entry *next; /* in its bucket */
    uint64_t unique;
};

struct inflight {
    struct inflight_entry *buckets[INFLIGHT_BUCKETS];
    size_t count;
};

void inflight_add(struct inflight *inflight, struct inflight_entry *entry);
void inflight_remove(struct inflight *inflight, struct inflight_entry *entry);
/* The entry with this number, or NULL. */
struct inflight_entry *inflight_find(const struct inflight *inflight, uint64_t unique);

#endif
