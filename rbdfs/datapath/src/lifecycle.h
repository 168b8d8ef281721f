/* Setting the multiplexer up, starting its threads, and ending them. */
#ifndef RBDFS_LIFECYCLE_H
#define RBDFS_LIFECYCLE_H

#include <stdbool.h>
#include <stddef.h>
#include <time.h>

struct mux;
struct mux_settings;

/* The descriptors are duplicated; `ledger_fd` is -1, or as ledger.h has it, and `meters_fd`
 * as meters.h. NULL and errno. */
struct mux *mux_new(int fuse_fd, int pyfuse3_fd, int extra_fd, int ledger_fd,
                    int meters_fd, const struct mux_settings *settings);
/* Start the threads: 0 or an errno. With `init`, a recorded INIT request, pyfuse3 gets it first and
 * its reply is swallowed: the kernel had its answer from another process. */
int mux_start(struct mux *mux, const char *init, size_t init_length);
/* Stop reading, and wait until librbd has no request, and if `all` pyfuse3 and Python have none
 * either: 0 or ETIMEDOUT. */
int mux_drain(struct mux *mux, bool all, const struct timespec *deadline);
/* Drain librbd, end the threads, shut the sockets down, unregister all files: 0, or ETIMEDOUT, and
 * the mux must not be freed. */
int mux_stop(struct mux *mux, const struct timespec *deadline);
/* Of a stopped mux, or one that was never started. */
void mux_free(struct mux *mux);

#endif
