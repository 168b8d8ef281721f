#include "trace.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

int trace_init(struct trace *trace, bool on)
{
    *trace = (struct trace){.on = on, .event_fd = -1};
    pthread_mutex_init(&trace->lock, NULL);
    if (!on)
        return 0;
    trace->records = calloc(TRACE_RECORDS, sizeof *trace->records);
    if (!trace->records)
        return ENOMEM;
    trace->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return trace->event_fd < 0 ? errno : 0;
}

void trace_destroy(struct trace *trace)
{
    if (trace->event_fd >= 0)
        close(trace->event_fd);
    free(trace->records);
    pthread_mutex_destroy(&trace->lock);
}

void trace_add(struct trace *trace, const struct trace_record *record)
{
    uint64_t one = 1;

    pthread_mutex_lock(&trace->lock);
    if (trace->count < TRACE_RECORDS) {
        trace->records[(trace->first + trace->count) % TRACE_RECORDS] = *record;
        if (!trace->count++)
            (void)!write(trace->event_fd, &one, sizeof one);
    } else {
        trace->lost++;
    }
    pthread_mutex_unlock(&trace->lock);
}

bool trace_take(struct trace *trace, struct trace_record *record)
{
    uint64_t count;
    bool found;

    pthread_mutex_lock(&trace->lock);
    found = trace->count;
    if (found) {
        *record = trace->records[trace->first];
        trace->first = (trace->first + 1) % TRACE_RECORDS;
        if (!--trace->count)
            (void)!read(trace->event_fd, &count, sizeof count);
    }
    pthread_mutex_unlock(&trace->lock);
    return found;
}

unsigned long long trace_take_lost(struct trace *trace)
{
    unsigned long long lost;

    pthread_mutex_lock(&trace->lock);
    lost = trace->lost;
    trace->lost = 0;
    pthread_mutex_unlock(&trace->lock);
    return lost;
}
