#define _GNU_SOURCE
#include "thread.h"

#include <errno.h>
#include <signal.h>

int thread_start(pthread_t *thread, void *(*main)(void *), void *arg)
{
    sigset_t all, before;
    int error;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    error = pthread_create(thread, NULL, main, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

int thread_join(pthread_t thread, const struct timespec *deadline)
{
    return pthread_clockjoin_np(thread, NULL, CLOCK_MONOTONIC, deadline);
}

struct timespec deadline_in(double seconds)
{
    struct timespec now;
    long nanoseconds;

    /* A day is for ever here, and keeps the sum in range. */
    if (!(seconds >= 0))
        seconds = 0;
    if (seconds > 86400)
        seconds = 86400;
    clock_gettime(CLOCK_MONOTONIC, &now);
    nanoseconds = now.tv_nsec + (long)((seconds - (long)seconds) * 1e9);
    return (struct timespec){
        .tv_sec = now.tv_sec + (long)seconds + nanoseconds / 1000000000,
        .tv_nsec = nanoseconds % 1000000000,
    };
}

uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ULL + now.tv_nsec;
}

void monotonic_cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attributes;

    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attributes);
    pthread_condattr_destroy(&attributes);
}
