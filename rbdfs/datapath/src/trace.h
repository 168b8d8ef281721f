/* What the data path has answered by itself, for a log that has a line for each request.
 *
 * Nothing is written without `on`. Who reads does so in Python's time: what comes while
 * TRACE_RECORDS wait is counted, and lost.
 */
#ifndef RBDFS_TRACE_H
#define RBDFS_TRACE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { TRACE_RECORDS = 1 << 14 };

struct trace_record {
    uint64_t fh, offset; /* in the file */
    uint64_t duration_ns;
    uint32_t length, opcode;
    int32_t error; /* 0, or the errno of the answer */
};

struct trace {
    bool on;
    int event_fd; /* readable while records wait */
    pthread_mutex_t lock;
    struct trace_record *records; /* a ring */
    size_t first, count;
    unsigned long long lost;
};

/* 0 or an errno. */
int trace_init(struct trace *trace, bool on);
void trace_destroy(struct trace *trace);
void trace_add(struct trace *trace, const struct trace_record *record);
/* Take the oldest record: false if there is none. */
bool trace_take(struct trace *trace, struct trace_record *record);
/* How many were lost since the last call. */
unsigned long long trace_take_lost(struct trace *trace);

#endif
