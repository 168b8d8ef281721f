/* Requests that pyfuse3 has, by who waits for them: those that must not run twice, and those that may
 * be given up (interrupts.h).
 *
 * pyfuse3 does not tell its operations the number (`unique`) of a request. A thread waits for one
 * request at a time, so its id, the opcode and the inode find it; of READDIRPLUS an operation knows
 * the file handle, in the place of both, and of STATFS the thread alone (0 for what it does not
 * know). Where several are alike it is the oldest, because pyfuse3 begins them in their order. The
 * number has FUSE_UNIQUE_RESEND where the kernel has sent the request before, to a server that is
 * gone. */
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

/* Whether it must not run twice. */
bool runs_once(uint32_t opcode);
/* Note a request, with the `size` bytes behind its header. Without memory it stays unknown. */
void callers_add(struct callers *callers, const struct fuse_in_header *in, const void *body,
                 size_t size);
/* The request was answered. */
void callers_remove(struct callers *callers, uint64_t unique);
/* The number of the oldest such request that was not taken yet, or 0. */
uint64_t callers_take(struct callers *callers, uint32_t opcode, uint64_t nodeid, uint32_t pid);

#endif
