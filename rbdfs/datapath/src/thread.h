/* Threads that take no signals, and deadlines on the monotonic clock. */
#ifndef RBDFS_THREAD_H
#define RBDFS_THREAD_H

#include <pthread.h>
#include <stdint.h>
#include <time.h>

/* 0 or an errno. Signals are for Python's main thread. */
int thread_start(pthread_t *thread, void *(*main)(void *), void *arg);
/* 0, or ETIMEDOUT if it has not ended at the deadline (CLOCK_MONOTONIC). */
int thread_join(pthread_t thread, const struct timespec *deadline);
struct timespec deadline_in(double seconds);
/* The time on that clock, in nanoseconds. */
uint64_t now_ns(void);
/* A condition variable whose timed waits take such a deadline. */
void monotonic_cond_init(pthread_cond_t *cond);

#endif
