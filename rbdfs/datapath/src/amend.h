/* What the data path changes in pyfuse3's replies to INIT, OPEN and CREATE. */
#ifndef RBDFS_AMEND_H
#define RBDFS_AMEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mux;

/* Keep the kernel's INIT request, for its reply and for the next server. */
void record_init(struct mux *mux, const char *message, size_t length);
/* Change a reply of pyfuse3 as needed; false if it is not for the kernel. `opcode` is its
 * request's, where that is known. */
bool amend_reply(struct mux *mux, uint32_t opcode, char *message, size_t length);

#endif
