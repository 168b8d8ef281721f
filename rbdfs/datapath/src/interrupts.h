/* INTERRUPT: the caller of a request has a signal waiting.
 *
 * librbd takes no request back. But a request that changes nothing may be answered with EINTR while
 * it goes on with it: what it finds goes nowhere then. Python is told to give up what it has (and what
 * pyfuse3 has): it takes over the answering, so that what is on its way goes nowhere, and has EINTR
 * sent. Not before the keeper knows what the next server is to close, because the kernel knows
 * nothing of it then. That is done
 *
 *     at once       if the caller is being killed,
 *     after GRACE   if it is not: a disk that is well answers before, and a program need not expect EINTR,
 *     never         for a request that may change something; and a READ into the page cache, whose caller
 *                   may be at a page fault, where EINTR is SIGBUS, waits for the caller's end. So does one
 *                   without O_DIRECT that Python has: how its file was opened is not known here.
 *
 * The kernel tells of a signal once for each request, so those that wait are looked at again. All
 * of this is the reader's.
 */
#ifndef RBDFS_INTERRUPTS_H
#define RBDFS_INTERRUPTS_H

#include <stdbool.h>
#include <stdint.h>

struct mux;

/* Answer the request with this number now, or later. */
void interrupt_request(struct mux *mux, uint64_t unique);
/* For Python, on any thread: take over the answering of a request that it was told to give up. False
 * if it has been answered. */
bool interrupt_take(struct mux *mux, uint64_t unique);
/* And answer it. */
void interrupt_answer(struct mux *mux, uint64_t unique);
/* Look at those that are due. */
void interrupts_run(struct mux *mux);
/* For poll(): milliseconds until one is due, or -1. */
int interrupts_timeout_ms(const struct mux *mux);

#endif
