#define _GNU_SOURCE
#include "outlet.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "thread.h"

/* How often, and how long after the last time, a message is tried that the kernel has no room for:
 * half a minute. */
enum { TRIES = 3000, PAUSE_MS = 10 };

void outlet_init(struct outlet *outlet, int fd, bool socket,
                 void (*undelivered)(void *, const char *, size_t, int), void *arg)
{
    *outlet = (struct outlet){.fd = fd, .socket = socket, .undelivered = undelivered, .arg = arg};
    pthread_mutex_init(&outlet->lock, NULL);
    pthread_cond_init(&outlet->changed, NULL);
    monotonic_cond_init(&outlet->emptied);
}

struct message *message_copy(const char *data, size_t length)
{
    struct message *message = malloc(sizeof *message + length);

    if (message) {
        message->next = NULL;
        message->length = length;
        memcpy(message->data, data, length);
    }
    return message;
}

/* True. The device's descriptor is a non-blocking one. */
static bool wait_writable(int fd)
{
    struct pollfd writable = {.fd = fd, .events = POLLOUT};

    poll(&writable, 1, -1);
    return true;
}

/* A packet of 1 MiB takes as much memory in one piece (unix_dgram_sendmsg), which the kernel of a
 * host that has been up for long may not find at once. */
static bool lacks_memory(int error)
{
    return error == ENOBUFS || error == ENOMEM;
}

/* 0 or an errno; without `wait` EAGAIN if the socket is full. */
static int deliver(struct outlet *outlet, const char *data, size_t length, bool wait)
{
    ssize_t sent;

    do {
        if (outlet->socket)
            sent = send(outlet->fd, data, length, MSG_NOSIGNAL | (wait ? 0 : MSG_DONTWAIT));
        else
            sent = write(outlet->fd, data, length);
    } while (sent < 0 && (errno == EINTR || (errno == EAGAIN && wait && wait_writable(outlet->fd))));
    return sent < 0 ? errno : 0;
}

static void append(struct outlet *outlet, struct message *message)
{
    message->next = NULL;
    if (outlet->tail)
        outlet->tail->next = message;
    else
        outlet->head = message;
    outlet->tail = message;
    pthread_cond_signal(&outlet->changed);
}

/* With the lock held: 0 if the message was taken, EAGAIN if it has to wait, else why it cannot
 * go. */
static int try_now(struct outlet *outlet, const char *data, size_t length)
{
    int error;

    if (outlet->closed)
        return EPIPE;
    /* Behind those that wait already, or it would overtake them. */
    if (!outlet->socket || outlet->head)
        return EAGAIN;
    error = deliver(outlet, data, length, false);
    return lacks_memory(error) ? EAGAIN : error;
}

void outlet_send(struct outlet *outlet, const char *data, size_t length)
{
    int error;

    pthread_mutex_lock(&outlet->lock);
    error = try_now(outlet, data, length);
    if (error == EAGAIN) {
        struct message *message = message_copy(data, length);
        if (message)
            append(outlet, message);
        error = message ? 0 : ENOMEM;
    }
    pthread_mutex_unlock(&outlet->lock);
    if (error)
        outlet->undelivered(outlet->arg, data, length, error);
}

void outlet_send_message(struct outlet *outlet, struct message *message)
{
    int error;

    pthread_mutex_lock(&outlet->lock);
    error = try_now(outlet, message->data, message->length);
    if (error == EAGAIN)
        append(outlet, message);
    pthread_mutex_unlock(&outlet->lock);
    if (error == EAGAIN)
        return;
    if (error)
        outlet->undelivered(outlet->arg, message->data, message->length, error);
    free(message);
}

static void *outlet_main(void *arg)
{
    struct outlet *outlet = arg;
    int tries = 0;

    pthread_mutex_lock(&outlet->lock);
    while (outlet->head || !outlet->closed) {
        struct message *message = outlet->head;
        int error = EPIPE;

        if (!message) {
            pthread_cond_wait(&outlet->changed, &outlet->lock);
            continue;
        }
        /* It stays the head meanwhile, so that nothing overtakes it. */
        if (!outlet->closed) {
            pthread_mutex_unlock(&outlet->lock);
            error = deliver(outlet, message->data, message->length, true);
            if (lacks_memory(error) && ++tries < TRIES) {
                poll(NULL, 0, PAUSE_MS);
                pthread_mutex_lock(&outlet->lock);
                continue;
            }
            pthread_mutex_lock(&outlet->lock);
        }
        tries = 0;
        outlet->head = message->next;
        if (!outlet->head)
            outlet->tail = NULL;
        if (!outlet->head)
            pthread_cond_broadcast(&outlet->emptied);
        pthread_mutex_unlock(&outlet->lock);
        if (error)
            outlet->undelivered(outlet->arg, message->data, message->length, error);
        free(message);
        pthread_mutex_lock(&outlet->lock);
    }
    pthread_mutex_unlock(&outlet->lock);
    return NULL;
}

int outlet_start(struct outlet *outlet)
{
    int error = thread_start(&outlet->thread, outlet_main, outlet);

    outlet->started = !error;
    return error;
}

int outlet_finish(struct outlet *outlet, const struct timespec *deadline)
{
    int error = 0;

    pthread_mutex_lock(&outlet->lock);
    while (outlet->head && !error)
        error = pthread_cond_timedwait(&outlet->emptied, &outlet->lock, deadline);
    if (!outlet->head) {
        error = 0;
        outlet->closed = true;
        pthread_cond_signal(&outlet->changed);
    }
    pthread_mutex_unlock(&outlet->lock);
    return error;
}

void outlet_close(struct outlet *outlet)
{
    pthread_mutex_lock(&outlet->lock);
    outlet->closed = true;
    pthread_cond_signal(&outlet->changed);
    pthread_mutex_unlock(&outlet->lock);
}

int outlet_join(struct outlet *outlet, const struct timespec *deadline)
{
    int error = outlet->started ? thread_join(outlet->thread, deadline) : 0;

    if (!error)
        outlet->started = false;
    return error;
}

void outlet_destroy(struct outlet *outlet)
{
    while (outlet->head) {
        struct message *message = outlet->head;
        outlet->head = message->next;
        free(message);
    }
    pthread_cond_destroy(&outlet->emptied);
    pthread_cond_destroy(&outlet->changed);
    pthread_mutex_destroy(&outlet->lock);
}
