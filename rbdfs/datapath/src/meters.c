#include "meters.h"

#include <errno.h>
#include <sys/mman.h>

#include "thread.h"

_Static_assert(sizeof(struct meter) % 64 == 0, "a meter shares no cache line");
_Static_assert(sizeof(struct image_meters) == 8192, "an image has whole pages");
_Static_assert(sizeof(struct meters_header) == 4096, "and so has the header");
_Static_assert(offsetof(struct meters_memory, images) % 4096 == 0, "and come the figures");

int meters_init(struct meters *meters, int fd)
{
    void *memory = NULL;

    if (fd >= 0)
        memory = mmap(NULL, sizeof *meters->memory, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        return errno;
    meters->memory = memory;
    if (memory && (meters->memory->header.magic != METERS_MAGIC ||
                   meters->memory->header.version != METERS_VERSION)) {
        meters_destroy(meters);
        return EPROTO;
    }
    return 0;
}

void meters_destroy(struct meters *meters)
{
    if (meters->memory)
        munmap(meters->memory, sizeof *meters->memory);
    meters->memory = NULL;
}

struct image_meters *meters_of(struct meters *meters, uint64_t number)
{
    return meters->memory && number < METERS_IMAGES ? &meters->memory->images[number] : NULL;
}

static void add(_Atomic uint64_t *counter, uint64_t more)
{
    atomic_fetch_add_explicit(counter, more, memory_order_relaxed);
}

static unsigned bucket_of(uint64_t ns)
{
    uint64_t us = ns / 1000 + (ns % 1000 != 0);
    unsigned bucket;

    if (us <= 16)
        return 0;
    bucket = 64 - (unsigned)__builtin_clzll(us - 1) - 4;
    return bucket < METER_BUCKETS ? bucket : METER_BUCKETS - 1;
}

static void count_error(struct meter *meter, uint64_t error)
{
    for (size_t i = 0; i < METER_ERRORS - 1; i++) {
        struct meter_error *entry = &meter->errors[i];
        uint64_t known = 0;

        if (atomic_compare_exchange_strong(&entry->error, &known, error) || known == error) {
            add(&entry->count, 1);
            return;
        }
    }
    add(&meter->errors[METER_ERRORS - 1].count, 1);
}

static void count(struct meter *meter, uint64_t ns, uint64_t bytes, int error)
{
    add(&meter->buckets[bucket_of(ns)], 1);
    add(&meter->sum_ns, ns);
    if (error)
        count_error(meter, (uint64_t)error);
    else if (bytes)
        add(&meter->bytes, bytes);
}

uint64_t meter_begin(struct image_meters *image, enum meter_operation operation)
{
    if (image)
        add(&image->meters[METER_NATIVE][operation].in_flight, 1);
    return now_ns();
}

uint64_t meter_end(struct image_meters *image, enum meter_operation operation, uint64_t begun_ns,
                   uint64_t bytes, int error)
{
    uint64_t now;

    if (!image)
        return 0;
    now = now_ns();
    add(&image->meters[METER_NATIVE][operation].in_flight, -1ULL);
    count(&image->meters[METER_NATIVE][operation], now - begun_ns, bytes, error);
    return now;
}

void meter_at_once(struct image_meters *image, enum meter_operation operation, int error)
{
    if (image)
        count(&image->meters[METER_NATIVE][operation], 0, 0, error);
}

void meters_cluster_answered(struct meters *meters, uint64_t now_ns)
{
    if (meters->memory)
        atomic_store_explicit(&meters->memory->header.answered_ns, now_ns, memory_order_relaxed);
}
