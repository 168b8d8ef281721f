#include "registration.h"

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
        struct registration *registration;

        pthread_mutex_lock(&table->lock);
        registration = table->buckets[i];
        table->buckets[i] = NULL;
        for (struct registration *each = registration; each; each = each->next) {
            table->count--;
            open_image_unregister(each->image);
        }
        pthread_mutex_unlock(&table->lock);
        while (registration) {
            struct registration *next = registration->next;
            registration_unref(registration);
            registration = next;
        }
    }
}

void table_destroy(struct table *table)
{
    table_clear(table);
    free(table->buckets);
    pthread_mutex_destroy(&table->lock);
}

static struct registration **bucket(struct registration **buckets, size_t count, uint64_t fh)
{
    /* Numbers given out in sequence, and pointers, both spread well. */
    return &buckets[(fh * 0x9e3779b97f4a7c15ULL >> 32) & (count - 1)];
}

/* The link that points to the registration, or to NULL at the end of its bucket. */
static struct registration **find(struct table *table, uint64_t fh)
{
    struct registration **link = bucket(table->buckets, table->bucket_count, fh);

    while (*link && (*link)->fh != fh)
        link = &(*link)->next;
    return link;
}

/* Twice the buckets. Without memory for them the table is slower, and as right. */
static void grow(struct table *table)
{
    size_t count = 2 * table->bucket_count;
    struct registration **buckets = calloc(count, sizeof *buckets);

    if (!buckets)
        return;
    for (size_t i = 0; i < table->bucket_count; i++)
        while (table->buckets[i]) {
            struct registration *registration = table->buckets[i];
            struct registration **link = bucket(buckets, count, registration->fh);
            table->buckets[i] = registration->next;
            registration->next = *link;
            *link = registration;
        }
    free(table->buckets);
    table->buckets = buckets;
    table->bucket_count = count;
}

static struct registration *new_registration(struct open_image *image,
                                             const struct registration_options *options,
                                             struct outlet *pyfuse3)
{
    struct registration *registration = calloc(1, sizeof *registration);

    if (!registration)
        return NULL;
    atomic_init(&registration->references, 1);
    registration->fh = options->fh;
    registration->image = image;
    registration->offset = options->offset;
    atomic_init(&registration->length, options->length);
    registration->readable = options->readable;
    registration->writable = options->writable;
    registration->ignore_sync = options->ignore_sync;
    atomic_init(&registration->dirty, options->dirty);
    atomic_init(&registration->direct, options->direct);
    registration->open_flags = options->open_flags;
    registration->meters = options->meters;
    registration->pyfuse3 = pyfuse3;
    return registration;
}

int table_add(struct table *table, struct open_image *image,
              const struct registration_options *options, struct outlet *pyfuse3)
{
    struct registration *registration = new_registration(image, options, pyfuse3), **link;
    int error = 0;

    if (!registration)
        return ENOMEM;
    pthread_mutex_lock(&table->lock);
    if (table->count >= table->bucket_count)
        grow(table);
    link = find(table, registration->fh);
    if (*link)
        error = EEXIST;
    else if (!open_image_add_registration(registration->image))
        error = EBUSY;
    if (!error) {
        open_image_ref(registration->image);
        *link = registration;
        table->count++;
    }
    pthread_mutex_unlock(&table->lock);
    if (error)
        free(registration);
    return error;
}

struct registration *table_find(struct table *table, uint64_t fh)
{
    struct registration *registration;

    pthread_mutex_lock(&table->lock);
    registration = *find(table, fh);
    if (registration)
        atomic_fetch_add_explicit(&registration->references, 1, memory_order_relaxed);
    pthread_mutex_unlock(&table->lock);
    return registration;
}

struct registration *table_remove(struct table *table, uint64_t fh)
{
    struct registration **link, *registration;

    pthread_mutex_lock(&table->lock);
    link = find(table, fh);
    registration = *link;
    if (registration) {
        *link = registration->next;
        table->count--;
        open_image_unregister(registration->image);
    }
    pthread_mutex_unlock(&table->lock);
    return registration;
}

void registration_unref(struct registration *registration)
{
    if (atomic_fetch_sub(&registration->references, 1) > 1)
        return;
    open_image_remove_registration(registration->image);
    open_image_unref(registration->image);
    /* Last: who hears of it may close the image. */
    if (registration->release_message)
        outlet_send_message(registration->pyfuse3, registration->release_message);
    free(registration);
}
