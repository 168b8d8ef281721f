/* Requests that pyfuse3 has and that must not run twice, by who waits for them.
 *
 * pyfuse3 does not tell its operations the number (`unique`) of a request. A thread waits for one
 * request at a time, so its id, the opcode and the inode find it. The number has FUSE_UNIQUE_RESEND
 * where the kernel has sent the request before, to a server that is gone. */
#ifndef RBDFS_CALLERS_H
#define RBDFS_CALLERS_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "abi.h"

struct caller {
    uint64_t unique, nodeid;
    uint32_t opcode, pid;
};

struct callers {
    pthread_mutex_t lock;
    struct caller *items; /* in the order of their arrival */
    size_t count, capacity;
};

void callers_init(struct callers *callers);
void callers_destroy(struct callers *callers);

/* Note a request, if it is one that must not run twice. Without memory it stays unknown. */
void callers_add(struct callers *callers, const struct fuse_in_header *in);
/* The request was answered. */
void callers_remove(struct callers *callers, uint64_t unique);
/* The number of the oldest such request that was not taken yet, or 0. */
uint64_t callers_take(struct callers *callers, uint32_t opcode, uint64_t nodeid, uint32_t pid);

#endif
