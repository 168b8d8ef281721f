/* What becomes of a message of the kernel. */
#ifndef RBDFS_DISPATCH_H
#define RBDFS_DISPATCH_H

#include <stddef.h>

struct block;
struct mux;

/* Carry out or pass on the message of `length` bytes at block_message(*block). Takes the block, and
 * sets it to NULL, if the message stays in it. */
void dispatch(struct mux *mux, struct block **block, size_t length);

#endif
