/* A small set of request numbers (`unique`): the opens under way, the requests that Python
 * answers. */
#ifndef RBDFS_UNIQUES_H
#define RBDFS_UNIQUES_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct uniques {
    pthread_mutex_t lock;
    uint64_t *items;
    size_t count, capacity;
};

void uniques_init(struct uniques *set);
void uniques_destroy(struct uniques *set);

/* False if there is no memory. */
bool uniques_add(struct uniques *set, uint64_t unique);
/* Whether it was in the set. */
bool uniques_remove(struct uniques *set, uint64_t unique);
bool uniques_contains(struct uniques *set, uint64_t unique);
size_t uniques_count(struct uniques *set);

#endif
