/* Requests that pyfuse3 or Python has, found by their number (`unique`), until they are answered.
 *
 * One that was answered for them (interrupts.h) stays, marked so, until their own answer comes:
 * that goes nowhere then.
 */
#ifndef RBDFS_PENDING_H
#define RBDFS_PENDING_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "abi.h"

enum { PENDING_BUCKETS = 1024 };

struct pending_request {
    struct pending_request *next; /* in its bucket */
    uint64_t unique, nodeid;
    uint32_t opcode, pid;
    bool python;   /* it is Python's, and not pyfuse3's */
    bool constant; /* it changes nothing, and what it hands out can be taken back */
    bool paged;    /* a READ into the page cache: its caller may be at a page fault */
    bool answered;
};

struct pending {
    pthread_mutex_t lock;
    struct pending_request *buckets[PENDING_BUCKETS];
};

void pending_init(struct pending *pending);
void pending_destroy(struct pending *pending);

/* False if there is no memory. */
bool pending_add(struct pending *pending, const struct pending_request *request);
/* Remove the request with this number, and copy it: false if there is none. */
bool pending_take(struct pending *pending, uint64_t unique, struct pending_request *request);
/* Copy it: false if there is none. */
bool pending_find(struct pending *pending, uint64_t unique, struct pending_request *request);
/* Whether it was answered for them. */
bool pending_was_answered(struct pending *pending, uint64_t unique);
/* Whoever gets true has to answer the request; its own answer will be dropped. */
bool pending_answer(struct pending *pending, uint64_t unique);

#endif
