#define _GNU_SOURCE
#include "block.h"

#include <stdint.h>
#include <sys/mman.h>

enum {
    /* Idle blocks kept: what a busy mount reuses, without holding a burst's memory for ever. */
    IDLE_SMALL = 512,
    IDLE_LARGE = 64,
    /* A large block has a huge page of its own. The kernel looks every page of a reply up by
     * itself, and that is the cheaper the fewer there are: 1 MiB reads took a sixth less CPU in
     * all. */
    HUGE_PAGE_BYTES = 2 << 20,
};

void pool_init(struct pool *pool)
{
    *pool = (struct pool){0};
    pthread_mutex_init(&pool->lock, NULL);
}

static size_t mapped_bytes(size_t capacity)
{
    return capacity == LARGE_BYTES ? HUGE_PAGE_BYTES : BLOCK_HEAD_BYTES + capacity;
}

static void *map(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return memory == MAP_FAILED ? NULL : memory;
}

static void *map_huge_page(void)
{
    char *memory = map(2 * HUGE_PAGE_BYTES);
    size_t before;

    if (!memory)
        return NULL;
    before = -(uintptr_t)memory % HUGE_PAGE_BYTES;
    if (before)
        munmap(memory, before);
    munmap(memory + before + HUGE_PAGE_BYTES, HUGE_PAGE_BYTES - before);
    /* Where there are none, it is ordinary pages, of which only those that are used take memory. */
    madvise(memory + before, HUGE_PAGE_BYTES, MADV_HUGEPAGE);
    return memory + before;
}

/* Mapped, not allocated: what is given back leaves the process. */
static struct block *map_block(size_t capacity)
{
    struct block *block =
        capacity == LARGE_BYTES ? map_huge_page() : map(mapped_bytes(capacity));

    if (block)
        block->capacity = capacity;
    return block;
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
    return block ? block : map_block(capacity);
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
