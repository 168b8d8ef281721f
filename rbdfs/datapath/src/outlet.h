/* A queue of messages in front of a descriptor that may be slow to take them.
 *
 * Sending never blocks: what the descriptor does not take at once waits in memory, and a thread of
 * the outlet delivers it, in order. The number of messages is bounded by the kernel, which waits
 * for the answers of those it sent.
 */
#ifndef RBDFS_OUTLET_H
#define RBDFS_OUTLET_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <time.h>

struct message {
    struct message *next;
    size_t length;
    char data[];
};

struct outlet {
    int fd;
    /* A socket, which is tried at once; else a device whose write may block: the thread's alone. */
    bool socket;
    /* Called with a message that could not be delivered, and an errno; must not send to the
     * outlet. */
    void (*undelivered)(void *arg, const char *data, size_t length, int error);
    void *arg;

    pthread_mutex_t lock;
    pthread_cond_t changed; /* something was queued, or it was closed */
    pthread_cond_t emptied;
    struct message *head, *tail;
    bool closed;
    pthread_t thread;
    bool started;
};

void outlet_init(struct outlet *outlet, int fd, bool socket,
                 void (*undelivered)(void *, const char *, size_t, int), void *arg);
/* 0 or an errno. */
int outlet_start(struct outlet *outlet);

/* A copy of a message, NULL if there is no memory. */
struct message *message_copy(const char *data, size_t length);
void outlet_send(struct outlet *outlet, const char *data, size_t length);
/* The same for a message that the outlet owns from here on. */
void outlet_send_message(struct outlet *outlet, struct message *message);

/* Deliver what waits, and then close: 0, or ETIMEDOUT (CLOCK_MONOTONIC) and it is open as
 * before. */
int outlet_finish(struct outlet *outlet, const struct timespec *deadline);
/* No more messages: those that wait are undelivered with EPIPE, and so is every later one. The
 * caller shuts the socket down first, if the thread may be blocked in it. */
void outlet_close(struct outlet *outlet);
/* Join the thread of a closed outlet; ETIMEDOUT if it has not ended at the deadline
 * (CLOCK_MONOTONIC). */
int outlet_join(struct outlet *outlet, const struct timespec *deadline);
void outlet_destroy(struct outlet *outlet);

#endif
