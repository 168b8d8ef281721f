#define _GNU_SOURCE
#include "block.h"

#include <sys/mman.h>

/* Idle blocks kept: what a busy mount reuses, without holding a burst's memory for ever. */
enum { IDLE_SMALL = 512, IDLE_LARGE = 64 };

void pool_init(struct pool *pool)
{
    *pool = (struct pool){0};
    pthread_mutex_init(&pool->lock, NULL);
}

static size_t mapped_bytes(size_t capacity)
{
    return BLOCK_HEAD_BYTES + capacity;
}

static void unmap_all(struct block *block)
{
    while (block) {
        struct block *next = block->next;
        munmap(block, mapped_bytes(block->capacity));
        block = next;
    }
}

void pool_destroy(struct pool *pool)
{
    unmap_all(pool->small);
    unmap_all(pool->large);
    pthread_mutex_destroy(&pool->lock);
}

struct block *pool_get(struct pool *pool, size_t bytes)
{
    size_t capacity = bytes <= SMALL_BYTES ? SMALL_BYTES : LARGE_BYTES;
    struct block **idle = capacity == SMALL_BYTES ? &pool->small : &pool->large;
    unsigned *count = capacity == SMALL_BYTES ? &pool->small_count : &pool->large_count;
    struct block *block;

    pthread_mutex_lock(&pool->lock);
    block = *idle;
    if (block) {
        *idle = block->next;
        --*count;
    }
    pthread_mutex_unlock(&pool->lock);
    if (block)
        return block;
    /* Mapped, not allocated: what is given back leaves the process. */
    block = mmap(NULL, mapped_bytes(capacity), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                 -1, 0);
    if (block == MAP_FAILED)
        return NULL;
    block->capacity = capacity;
    return block;
}

void pool_put(struct pool *pool, struct block *block)
{
    int small = block->capacity == SMALL_BYTES;
    struct block **idle = small ? &pool->small : &pool->large;
    unsigned *count = small ? &pool->small_count : &pool->large_count;
    int keep;

    pthread_mutex_lock(&pool->lock);
    keep = *count < (unsigned)(small ? IDLE_SMALL : IDLE_LARGE);
    if (keep) {
        block->next = *idle;
        *idle = block;
        ++*count;
    }
    pthread_mutex_unlock(&pool->lock);
    if (!keep)
        munmap(block, mapped_bytes(block->capacity));
}
