#define _GNU_SOURCE
#include "block.h"

#include <stdint.h>
#include <sys/mman.h>

enum {
    /* Bytes of idle blocks that are kept of each size: what a busy mount reuses, without holding a
     * burst's memory for ever. */
    IDLE_BYTES = 16 << 20,
    IDLE_LARGE = 32,
    /* So many of the large blocks have a huge page of their own. The kernel looks every page of a
     * reply up by itself, and that is the cheaper the fewer there are: 1 MiB reads took a sixth
     * less CPU in all. It holds twice what is needed, so a burst has ordinary pages; and it may
     * have to be made free first, which is done a bounded number of times so. */
    HUGE_BLOCKS = 32,
    HUGE_PAGE_BYTES = 2 << 20,
};

_Static_assert(SMALL_BYTES << (BLOCK_CLASSES - 1) == LARGE_BYTES, "classes of blocks");

void pool_init(struct pool *pool)
{
    *pool = (struct pool){0};
    pthread_mutex_init(&pool->lock, NULL);
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
static struct block *map_block(size_t capacity, bool huge)
{
    size_t bytes = huge ? HUGE_PAGE_BYTES : BLOCK_HEAD_BYTES + capacity;
    struct block *block = huge ? map_huge_page() : map(bytes);

    if (block) {
        block->capacity = capacity;
        block->mapped = bytes;
    }
    return block;
}

static unsigned class_of(size_t bytes)
{
    unsigned class = 0;

    while (bytes > (size_t)SMALL_BYTES << class)
        class++;
    return class;
}

static bool is_huge(const struct block *block)
{
    return block->mapped == HUGE_PAGE_BYTES;
}

static unsigned most_idle(const struct block *block)
{
    if (block->capacity == LARGE_BYTES)
        return is_huge(block) ? IDLE_LARGE : 0;
    return IDLE_BYTES / block->capacity;
}

void pool_destroy(struct pool *pool)
{
    for (unsigned i = 0; i < BLOCK_CLASSES; i++)
        while (pool->classes[i].idle) {
            struct block *block = pool->classes[i].idle;
            pool->classes[i].idle = block->next;
            munmap(block, block->mapped);
        }
    pthread_mutex_destroy(&pool->lock);
}

struct block *pool_get(struct pool *pool, size_t bytes)
{
    unsigned index = class_of(bytes);
    struct block_class *class = &pool->classes[index];
    size_t capacity = (size_t)SMALL_BYTES << index;
    struct block *block;
    bool huge;

    pthread_mutex_lock(&pool->lock);
    block = class->idle;
    if (block) {
        class->idle = block->next;
        class->idle_count--;
    }
    huge = capacity == LARGE_BYTES && class->count < HUGE_BLOCKS;
    class->count += !block;
    pthread_mutex_unlock(&pool->lock);
    if (block)
        return block;
    block = map_block(capacity, huge);
    if (!block) {
        pthread_mutex_lock(&pool->lock);
        class->count--;
        pthread_mutex_unlock(&pool->lock);
    }
    return block;
}

void pool_put(struct pool *pool, struct block *block)
{
    struct block_class *class = &pool->classes[class_of(block->capacity)];
    bool keep;

    pthread_mutex_lock(&pool->lock);
    keep = class->idle_count < most_idle(block);
    if (keep) {
        block->next = class->idle;
        class->idle = block;
        class->idle_count++;
    } else {
        class->count--;
    }
    pthread_mutex_unlock(&pool->lock);
    if (!keep)
        munmap(block, block->mapped);
}

bool pool_is_strained(struct pool *pool)
{
    const struct block_class *large = &pool->classes[BLOCK_CLASSES - 1];
    bool strained;

    pthread_mutex_lock(&pool->lock);
    strained = large->count - large->idle_count >= HUGE_BLOCKS / 2;
    pthread_mutex_unlock(&pool->lock);
    return strained;
}
