/* Which errno may be the answer to a request that the data path answers itself: fuse/answers.py has
 * the reasons, and the same table. */
#ifndef RBDFS_ERRNOS_H
#define RBDFS_ERRNOS_H

#include <stdbool.h>

/* The errno that the kernel is told when a READ, or (`writing`) a WRITE, FSYNC or FLUSH, fails with
 * `error`, a positive number. */
int answered_errno(bool writing, int error);

#endif
