#include "inflight.h"

static size_t bucket_of(uint64_t unique)
{
    /* The kernel counts in twos, and puts an offset for each CPU before the number. */
    return (unique * 0x9e3779b97f4a7c15ULL >> 32) % INFLIGHT_BUCKETS;
}

void inflight_add(struct inflight *inflight, struct inflight_entry *entry)
{
    struct inflight_entry **bucket = &inflight->buckets[bucket_of(entry->unique)];

    entry->next = *bucket;
    *bucket = entry;
    inflight->count++;
}

void inflight_remove(struct inflight *inflight, struct inflight_entry *entry)
{
    struct inflight_entry **link = &inflight->buckets[bucket_of(entry->unique)];

    while (*link != entry)
        link = &(*link)->next;
    *link = entry->next;
    inflight->count--;
}

struct inflight_entry *inflight_find(const struct inflight *inflight, uint64_t unique)
{
    struct inflight_entry *entry = inflight->buckets[bucket_of(unique)];

    while (entry && entry->unique != unique)
        entry = entry->next;
    return entry;
}
