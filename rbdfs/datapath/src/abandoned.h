/* Replies of pyfuse3 that nobody waits for any more, because their request was answered with EINTR.
 *
 * What pyfuse3 has counted for the kernel is taken back in the kernel's name: a lookup is
 * forgotten, an open file or directory is released.
 */
#ifndef RBDFS_ABANDONED_H
#define RBDFS_ABANDONED_H

#include <stddef.h>

struct mux;
struct pending_request;

/* Take back what the whole message of `length` bytes, a reply to the request, gives out. */
void take_back(struct mux *mux, const struct pending_request *request, const char *message,
               size_t length);

#endif
