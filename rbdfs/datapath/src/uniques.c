#include "uniques.h"

#include <stdlib.h>

void uniques_init(struct uniques *set)
{
    *set = (struct uniques){0};
    pthread_mutex_init(&set->lock, NULL);
}

void uniques_destroy(struct uniques *set)
{
    free(set->items);
    pthread_mutex_destroy(&set->lock);
}

bool uniques_add(struct uniques *set, uint64_t unique)
{
    bool added = true;

    pthread_mutex_lock(&set->lock);
    if (set->count == set->capacity) {
        size_t capacity = set->capacity ? 2 * set->capacity : 16;
        uint64_t *items = realloc(set->items, capacity * sizeof *items);
        if (items) {
            set->items = items;
            set->capacity = capacity;
        } else {
            added = false;
        }
    }
    if (added)
        set->items[set->count++] = unique;
    pthread_mutex_unlock(&set->lock);
    return added;
}

/* The index of a number, or the count of the set. From the end: the newest is asked for most. */
static size_t find(const struct uniques *set, uint64_t unique)
{
    for (size_t i = set->count; i-- > 0;)
        if (set->items[i] == unique)
            return i;
    return set->count;
}

bool uniques_remove(struct uniques *set, uint64_t unique)
{
    size_t i;
    bool found;

    pthread_mutex_lock(&set->lock);
    i = find(set, unique);
    found = i < set->count;
    if (found)
        set->items[i] = set->items[--set->count];
    pthread_mutex_unlock(&set->lock);
    return found;
}

bool uniques_contains(struct uniques *set, uint64_t unique)
{
    bool found;

    pthread_mutex_lock(&set->lock);
    found = find(set, unique) < set->count;
    pthread_mutex_unlock(&set->lock);
    return found;
}

size_t uniques_count(struct uniques *set)
{
    size_t count;

    pthread_mutex_lock(&set->lock);
    count = set->count;
    pthread_mutex_unlock(&set->lock);
    return count;
}
