/* The thread that copies pyfuse3's replies to the device: see the thread model in mux.h. */
#ifndef RBDFS_REPLIER_H
#define RBDFS_REPLIER_H

#include "block.h"

/* Larger than any reply to a request of LARGE_BYTES: the size of mux->reply. */
enum { REPLY_BYTES = LARGE_BYTES + (64 << 10) };

void *replier_main(void *mux);

#endif
