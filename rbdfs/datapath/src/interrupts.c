#define _GNU_SOURCE
#include "interrupts.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "mux.h"
#include "reply.h"
#include "request.h"

enum { GRACE_MS = 1000 };

static int64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

/* Whether a thread is being killed. Every signal that ends a process has become SIGKILL by then. */
static bool is_killed(uint32_t pid)
{
    char path[32], *line = NULL;
    size_t capacity = 0;
    bool killed = false;
    FILE *status;

    if (!pid)
        return false; /* of another pid namespace */
    snprintf(path, sizeof path, "/proc/%u/status", pid);
    status = fopen(path, "re");
    if (!status)
        return false;
    /* By lines: that of the groups before it has up to 700 KB. */
    while (getline(&line, &capacity, status) >= 0)
        if (!strncmp(line, "SigPnd:", strlen("SigPnd:"))) {
            killed = strtoull(line + strlen("SigPnd:"), NULL, 16) & 1ULL << (SIGKILL - 1);
            break;
        }
    free(line);
    fclose(status);
    return killed;
}

static void tell_python(struct mux *mux, const struct pending_request *request)
{
    struct fuse_in_header in = {
        .len = sizeof in,
        .opcode = request->opcode | OPCODE_ABANDONED,
        .unique = request->unique,
        .nodeid = request->nodeid,
        .pid = request->pid,
    };

    outlet_send(&mux->extra, (const void *)&in, sizeof in);
}

bool interrupt_take(struct mux *mux, uint64_t unique)
{
    return pending_answer(&mux->pending, unique);
}

void interrupt_answer(struct mux *mux, uint64_t unique)
{
    mux_count(&mux->stats.interrupted, 1);
    mux_reply_error(mux, unique, EINTR);
}

/* Whether the request has to be looked at again; `waited` says that the grace is over. */
static bool interrupt(struct mux *mux, uint64_t unique, bool waited)
{
    struct pending_request pending;
    uint32_t pid;
    bool direct;

    if (request_is_waiting_read(mux, unique, &pid, &direct)) {
        if (!(waited && direct) && !is_killed(pid))
            return true;
        request_interrupt(mux, unique);
    } else if (pending_find(&mux->pending, unique, &pending) && pending.constant) {
        if (!(waited && !pending.paged) && !is_killed(pending.pid))
            return true;
        tell_python(mux, &pending);
    }
    return false;
}

static void look_again(struct interrupts *interrupts, uint64_t unique)
{
    if (interrupts->count == interrupts->capacity) {
        size_t capacity = interrupts->capacity ? 2 * interrupts->capacity : 16;
        struct interrupt *items = realloc(interrupts->items, capacity * sizeof *items);

        /* Without memory its caller waits for the answer, as it would without an INTERRUPT. */
        if (!items)
            return;
        interrupts->items = items;
        interrupts->capacity = capacity;
    }
    interrupts->items[interrupts->count++] = (struct interrupt){unique, now_ms() + GRACE_MS};
}

void interrupt_request(struct mux *mux, uint64_t unique)
{
    if (interrupt(mux, unique, false))
        look_again(&mux->interrupts, unique);
}

void interrupts_run(struct mux *mux)
{
    struct interrupts *interrupts = &mux->interrupts;
    int64_t now = interrupts->count ? now_ms() : 0;
    size_t kept = 0;

    for (size_t i = 0; i < interrupts->count; i++) {
        struct interrupt item = interrupts->items[i];

        if (item.due_ms <= now) {
            if (!interrupt(mux, item.unique, true))
                continue;
            item.due_ms = now + GRACE_MS;
        }
        interrupts->items[kept++] = item;
    }
    interrupts->count = kept;
}

int interrupts_timeout_ms(const struct mux *mux)
{
    const struct interrupts *interrupts = &mux->interrupts;
    int64_t first = INT64_MAX, now;

    if (!interrupts->count)
        return -1;
    for (size_t i = 0; i < interrupts->count; i++)
        if (interrupts->items[i].due_ms < first)
            first = interrupts->items[i].due_ms;
    now = now_ms();
    return first > now ? (int)(first - now) : 0;
}
