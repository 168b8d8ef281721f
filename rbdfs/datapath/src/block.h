/* Memory of requests: page-aligned blocks of some sizes, kept for reuse.
 *
 * A block is a page for its owner's own use, then the data. The header of a message is received
 * right before the data, so the data of a WRITE and of a READ start on a page boundary, and a READ
 * is answered from the place where librbd put the data, with the reply's header before it.
 */
#ifndef RBDFS_BLOCK_H
#define RBDFS_BLOCK_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

#include "abi.h"

enum {
    BLOCK_HEAD_BYTES = 4096,
    /* Data of this size and less is copied: that costs less than touching another large block. */
    SMALL_BYTES = 32 << 10,
    LARGE_BYTES = 1 << 20,
    BLOCK_CLASSES = 6, /* each of twice the size of the one before, from SMALL_BYTES to LARGE_BYTES */
};

struct block {
    struct block *next;
    size_t capacity; /* bytes of data */
    size_t mapped;   /* bytes in all */
};

struct block_class {
    struct block *idle; /* the last one used first */
    unsigned idle_count, count;
};

struct pool {
    pthread_mutex_t lock;
    struct block_class classes[BLOCK_CLASSES];
};

void pool_init(struct pool *pool);
void pool_destroy(struct pool *pool);

/* A block for `bytes` of data, at most LARGE_BYTES; NULL if there is no memory. */
struct block *pool_get(struct pool *pool, size_t bytes);
void pool_put(struct pool *pool, struct block *block);
/* Whether there are so many large blocks that data which does not fill one is better copied. */
bool pool_is_strained(struct pool *pool);

static inline char *block_data(struct block *block)
{
    return (char *)block + BLOCK_HEAD_BYTES;
}

/* Where a message is received, so that the data of a WRITE is at block_data(). */
static inline char *block_message(struct block *block)
{
    return block_data(block) - WRITE_HEAD_BYTES;
}

#endif
