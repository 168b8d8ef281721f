#include "handle.h"

#include <errno.h>
#include <stdlib.h>

enum { FIRST_BUCKETS = 64 };

int table_init(struct table *table)
{
    *table = (struct table){.bucket_count = FIRST_BUCKETS};
    table->buckets = calloc(table->bucket_count, sizeof *table->buckets);
    if (!table->buckets)
        return ENOMEM;
    pthread_mutex_init(&table->lock, NULL);
    return 0;
}

void table_clear(struct table *table)
{
    for (size_t i = 0; i < table->bucket_count; i++) {
        struct handle *handle;

        pthread_mutex_lock(&table->lock);
        handle = table->buckets[i];
        table->buckets[i] = NULL;
        pthread_mutex_unlock(&table->lock);
        while (handle) {
            struct handle *next = handle->next;
            table->count--;
            image_unregister_handle(handle->image);
            handle_unref(handle);
            handle = next;
        }
    }
}

void table_destroy(struct table *table)
{
    table_clear(table);
    free(table->buckets);
    pthread_mutex_destroy(&table->lock);
}

static struct handle **bucket(struct handle **buckets, size_t count, uint64_t fh)
{
    /* Numbers given out in sequence, and pointers, both spread well. */
    return &buckets[(fh * 0x9e3779b97f4a7c15ULL >> 32) & (count - 1)];
}

/* The link that points to the handle, or to NULL at the end of its bucket. */
static struct handle **find(struct table *table, uint64_t fh)
{
    struct handle **link = bucket(table->buckets, table->bucket_count, fh);

    while (*link && (*link)->fh != fh)
        link = &(*link)->next;
    return link;
}

/* Twice the buckets. Without memory for them the table is slower, and as right. */
static void grow(struct table *table)
{
    size_t count = 2 * table->bucket_count;
    struct handle **buckets = calloc(count, sizeof *buckets);

    if (!buckets)
        return;
    for (size_t i = 0; i < table->bucket_count; i++)
        while (table->buckets[i]) {
            struct handle *handle = table->buckets[i];
            struct handle **link = bucket(buckets, count, handle->fh);
            table->buckets[i] = handle->next;
            handle->next = *link;
            *link = handle;
        }
    free(table->buckets);
    table->buckets = buckets;
    table->bucket_count = count;
}

static struct handle *new_handle(struct image *image, const struct handle_options *options,
                                 struct outlet *pyfuse3)
{
    struct handle *handle = calloc(1, sizeof *handle);

    if (!handle)
        return NULL;
    atomic_init(&handle->references, 1);
    handle->fh = options->fh;
    handle->image = image;
    handle->offset = options->offset;
    atomic_init(&handle->length, options->length);
    handle->readable = options->readable;
    handle->writable = options->writable;
    handle->ignore_sync = options->ignore_sync;
    handle->open_flags = options->open_flags;
    handle->pyfuse3 = pyfuse3;
    return handle;
}

int table_add(struct table *table, struct image *image, const struct handle_options *options,
              struct outlet *pyfuse3)
{
    struct handle *handle = new_handle(image, options, pyfuse3), **link;
    int error = 0;

    if (!handle)
        return ENOMEM;
    pthread_mutex_lock(&table->lock);
    if (table->count >= table->bucket_count)
        grow(table);
    link = find(table, handle->fh);
    if (*link)
        error = EEXIST;
    else if (!image_add_handle(handle->image))
        error = EBUSY;
    if (!error) {
        image_ref(handle->image);
        *link = handle;
        table->count++;
    }
    pthread_mutex_unlock(&table->lock);
    if (error)
        free(handle);
    return error;
}

struct handle *table_find(struct table *table, uint64_t fh)
{
    struct handle *handle;

    pthread_mutex_lock(&table->lock);
    handle = *find(table, fh);
    if (handle)
        atomic_fetch_add_explicit(&handle->references, 1, memory_order_relaxed);
    pthread_mutex_unlock(&table->lock);
    return handle;
}

struct handle *table_remove(struct table *table, uint64_t fh)
{
    struct handle **link, *handle;

    pthread_mutex_lock(&table->lock);
    link = find(table, fh);
    handle = *link;
    if (handle) {
        *link = handle->next;
        table->count--;
        image_unregister_handle(handle->image);
    }
    pthread_mutex_unlock(&table->lock);
    return handle;
}

void handle_unref(struct handle *handle)
{
    if (atomic_fetch_sub(&handle->references, 1) > 1)
        return;
    image_remove_handle(handle->image);
    image_unref(handle->image);
    /* Last: who hears of it may close the image. */
    if (handle->release)
        outlet_send_message(handle->pyfuse3, handle->release);
    free(handle);
}

bool table_any_image(struct table *table, bool (*test)(struct image *, uint64_t), uint64_t arg)
{
    bool found = false;

    pthread_mutex_lock(&table->lock);
    for (size_t i = 0; i < table->bucket_count && !found; i++)
        for (struct handle *handle = table->buckets[i]; handle && !found; handle = handle->next)
            found = test(handle->image, arg);
    pthread_mutex_unlock(&table->lock);
    return found;
}
