#include "callers.h"

#include <stdlib.h>
#include <string.h>

void callers_init(struct callers *callers)
{
    *callers = (struct callers){0};
    pthread_mutex_init(&callers->lock, NULL);
}

void callers_destroy(struct callers *callers)
{
    free(callers->items);
    pthread_mutex_destroy(&callers->lock);
}

bool runs_once(uint32_t opcode)
{
    switch (opcode) {
    case FUSE_OPEN:
    case FUSE_OPENDIR:
    case FUSE_CREATE:
    case FUSE_LINK:
    case FUSE_UNLINK:
    case FUSE_RENAME:
    case FUSE_RENAME2:
    case FUSE_MKDIR:
    case FUSE_RMDIR:
        return true;
    default:
        return false;
    }
}

/* By what its operation knows of it. */
static struct caller caller_of(const struct fuse_in_header *in, const void *body, size_t size)
{
    struct caller caller = {in->unique, in->nodeid, in->opcode, in->pid};

    if (in->opcode == FUSE_STATFS)
        caller.nodeid = 0;
    if (in->opcode == FUSE_READDIRPLUS && size >= sizeof caller.nodeid) {
        memcpy(&caller.nodeid, body, sizeof caller.nodeid);
        caller.pid = 0;
    }
    return caller;
}

void callers_add(struct callers *callers, const struct fuse_in_header *in, const void *body,
                 size_t size)
{
    pthread_mutex_lock(&callers->lock);
    if (callers->count == callers->capacity) {
        size_t capacity = callers->capacity ? 2 * callers->capacity : 16;
        struct caller *items = realloc(callers->items, capacity * sizeof *items);

        if (items) {
            callers->items = items;
            callers->capacity = capacity;
        }
    }
    if (callers->count < callers->capacity)
        callers->items[callers->count++] = caller_of(in, body, size);
    pthread_mutex_unlock(&callers->lock);
}

static void drop(struct callers *callers, size_t i)
{
    callers->count--;
    memmove(&callers->items[i], &callers->items[i + 1],
            (callers->count - i) * sizeof *callers->items);
}

void callers_remove(struct callers *callers, uint64_t unique)
{
    pthread_mutex_lock(&callers->lock);
    for (size_t i = 0; i < callers->count; i++)
        if (callers->items[i].unique == unique) {
            drop(callers, i);
            break;
        }
    pthread_mutex_unlock(&callers->lock);
}

uint64_t callers_take(struct callers *callers, uint32_t opcode, uint64_t nodeid, uint32_t pid)
{
    uint64_t unique = 0;

    pthread_mutex_lock(&callers->lock);
    for (size_t i = 0; i < callers->count; i++) {
        const struct caller *caller = &callers->items[i];

        if (caller->opcode == opcode && caller->nodeid == nodeid && caller->pid == pid) {
            unique = caller->unique;
            drop(callers, i);
            break;
        }
    }
    pthread_mutex_unlock(&callers->lock);
    return unique;
}
