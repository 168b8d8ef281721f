#include "pending.h"

#include <stdlib.h>

void pending_init(struct pending *pending)
{
    *pending = (struct pending){0};
    pthread_mutex_init(&pending->lock, NULL);
}

void pending_destroy(struct pending *pending)
{
    for (size_t i = 0; i < PENDING_BUCKETS; i++)
        while (pending->buckets[i]) {
            struct pending_request *request = pending->buckets[i];
            pending->buckets[i] = request->next;
            free(request);
        }
    pthread_mutex_destroy(&pending->lock);
}

/* The link that points to the request, or to NULL at the end of its bucket. */
static struct pending_request **find(struct pending *pending, uint64_t unique)
{
    size_t i = (unique * 0x9e3779b97f4a7c15ULL >> 32) % PENDING_BUCKETS;
    struct pending_request **link = &pending->buckets[i];

    while (*link && (*link)->unique != unique)
        link = &(*link)->next;
    return link;
}

bool pending_add(struct pending *pending, const struct pending_request *request)
{
    struct pending_request *added = malloc(sizeof *added), **link;

    if (!added)
        return false;
    *added = *request;
    pthread_mutex_lock(&pending->lock);
    /* A number comes twice from no kernel; each is taken once, then. */
    link = find(pending, request->unique);
    added->next = *link;
    *link = added;
    pthread_mutex_unlock(&pending->lock);
    return true;
}

bool pending_take(struct pending *pending, uint64_t unique, struct pending_request *request)
{
    struct pending_request **link, *taken;

    pthread_mutex_lock(&pending->lock);
    link = find(pending, unique);
    taken = *link;
    if (taken)
        *link = taken->next;
    pthread_mutex_unlock(&pending->lock);
    if (!taken)
        return false;
    *request = *taken;
    free(taken);
    return true;
}

bool pending_find(struct pending *pending, uint64_t unique, struct pending_request *request)
{
    struct pending_request *found;

    pthread_mutex_lock(&pending->lock);
    found = *find(pending, unique);
    if (found)
        *request = *found;
    pthread_mutex_unlock(&pending->lock);
    return found;
}

bool pending_was_answered(struct pending *pending, uint64_t unique)
{
    struct pending_request request;

    return pending_find(pending, unique, &request) && request.answered;
}

bool pending_answer(struct pending *pending, uint64_t unique)
{
    struct pending_request *found;
    bool first;

    pthread_mutex_lock(&pending->lock);
    found = *find(pending, unique);
    first = found && !found->answered;
    if (first)
        found->answered = true;
    pthread_mutex_unlock(&pending->lock);
    return first;
}
