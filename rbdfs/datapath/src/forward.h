/* Messages that are not for librbd: refused, or passed on to pyfuse3 or Python. */
#ifndef RBDFS_FORWARD_H
#define RBDFS_FORWARD_H

#include <stddef.h>

#include "arrival.h"

/* Answer a message that is not as it should be. */
void reject(const struct arrival *arrival, int error);
void pass_on(const struct arrival *arrival);
/* Have Python answer with EIO, and say so: servers have died of this request. */
void refuse(const struct arrival *arrival);

void on_release(const struct arrival *arrival);
/* What pyfuse3 does not know. `fh_offset` is the place in the body of the fh of the file that it
 * changes. */
void on_extra(const struct arrival *arrival, size_t fh_offset);
void on_interrupt(const struct arrival *arrival);

#endif
