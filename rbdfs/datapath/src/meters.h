/* What was done for each image, counted in memory that the keeper holds, so that it outlives servers,
 * and that anybody who is given it can read without asking the server.
 *
 * rbdfs/model/meters.py reads it. rbdfs/model/meters_layout.py has the same layout, and
 * tests/model/test_meters.py holds the two equal: 64-bit words in the order of the host, zeros at
 * first but for the header. Each operation of an image has a place for each of its two writers, this
 * code and Python, so that Python needs no atomic addition. Figures and the keys of images are
 * Python's alone.
 */
#ifndef RBDFS_METERS_H
#define RBDFS_METERS_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define METERS_MAGIC 0x72746d7366646272ULL /* "rbdfsmtr" */

enum {
    METERS_VERSION = 1,
    METERS_IMAGES = 4096, /* the first one stands for all that have no place of their own */
    METERS_FIGURES = 128,
    /* Bucket i counts what took at most 16 us << i and more than half of that; the last one the rest. */
    METER_BUCKETS = 24,
    METER_ERRORS = 8, /* the last one is for all errnos that have none */
};

enum meter_writer { METER_NATIVE, METER_PYTHON, METER_WRITERS };

enum meter_operation {
    METER_READ,
    METER_WRITE,
    METER_FLUSH, /* fsync(2) */
    METER_DISCARD,
    METER_WRITE_ZEROES,
    METER_SEEK,
    METER_COPY,
    METER_CLOSE, /* close(2), which flushes what was written */
    METER_ALLOCATE,
    METER_OPERATIONS,
};

struct meter_error {
    _Atomic uint64_t error; /* an errno; 0: free, or in the last one */
    _Atomic uint64_t count;
};

/* One operation of one image by one writer. The sum of the buckets is how many were answered, with an
 * error or without. */
struct meter {
    _Atomic uint64_t in_flight;
    _Atomic uint64_t bytes; /* of those that were answered without an error */
    _Atomic uint64_t sum_ns;
    _Atomic uint64_t buckets[METER_BUCKETS];
    struct meter_error errors[METER_ERRORS];
    uint64_t spare[5]; /* whole lines of a CPU's cache */
};

struct image_meters {
    uint64_t key_length; /* in bytes */
    char key[1272];      /* the image's spec, in UTF-8 */
    struct meter meters[METER_WRITERS][METER_OPERATIONS];
};

struct figure {
    char name[56];
    double value;
};

struct meters_header {
    uint64_t magic, version, image_count, image_bytes, images_offset;
    uint64_t figure_count, figure_bytes, figures_offset;
    uint64_t images_used; /* the first ones, in the order in which they were opened first */
    uint64_t spare[7];
    _Atomic uint64_t answered_ns; /* when the cluster has answered last, by CLOCK_MONOTONIC */
    uint64_t rest[495];
};

struct meters_memory {
    struct meters_header header;
    struct figure figures[METERS_FIGURES];
    struct image_meters images[METERS_IMAGES];
};

struct meters {
    struct meters_memory *memory; /* NULL where nothing is counted */
};

/* `fd` has a whole struct meters_memory, of this version; -1: nothing is counted. 0 or an errno. */
int meters_init(struct meters *meters, int fd);
void meters_destroy(struct meters *meters);
/* That of the image with this number; NULL where nothing is counted, or there is no such number. */
struct image_meters *meters_of(struct meters *meters, uint64_t number);

/* A request begins: returns when, for its end. `image` may be NULL in all of these. */
uint64_t meter_begin(struct image_meters *image, enum meter_operation operation);
/* And is answered, with an errno or 0. Returns when. */
uint64_t meter_end(struct image_meters *image, enum meter_operation operation, uint64_t begun_ns,
                   uint64_t bytes, int error);
/* A request that was answered as soon as it came. */
void meter_at_once(struct image_meters *image, enum meter_operation operation, int error);
/* The cluster has answered, at this time. */
void meters_cluster_answered(struct meters *meters, uint64_t now_ns);

#endif
