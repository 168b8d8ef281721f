/* Answers to the kernel. */
#ifndef RBDFS_REPLY_H
#define RBDFS_REPLY_H

#include <stddef.h>
#include <stdint.h>

struct mux;

void mux_reply(struct mux *mux, uint64_t unique, const void *payload, size_t length);
void mux_reply_error(struct mux *mux, uint64_t unique, int error);
/* The same as mux_reply(), for a payload that has room for the header before it. */
void mux_reply_in_place(struct mux *mux, uint64_t unique, char *payload, size_t length);
/* A whole reply to the request `unique`, header included, that somebody else has made: 0 or an
 * errno. */
int mux_reply_message(struct mux *mux, uint64_t unique, const char *message, size_t length);
/* The same for a request that Python has: ENOENT if nobody wants the answer any more. */
int mux_reply_extra(struct mux *mux, const char *message, size_t length);

#endif
