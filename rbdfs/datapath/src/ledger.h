/* How suspect requests are that were sent again: kept in memory that the keeper holds, so that it
 * outlives servers.
 *
 * A request upon which a server dies is resent to the next one, and so would take down each of
 * them. The suspicion of a request is raised before anything is done with it, and dropped when it
 * is answered. One that waits for the cluster is resent as well, however its server has ended: so
 * all suspicion is dropped by a server that lives on with what it was sent, or leaves of its own
 * accord, and one that somebody has killed raises it less.
 */
#ifndef RBDFS_LEDGER_H
#define RBDFS_LEDGER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

enum {
    LEDGER_BYTES = 4096,
    LEDGER_ENTRIES = LEDGER_BYTES / 16,
    /* How much each sending again raises it: three servers that have crashed are enough, or six that
     * were killed, which the kernel does as well if memory runs out. The keeper starts seven. */
    SUSPICION_CRASHED = 2,
    SUSPICION_KILLED = 1,
    SUSPICION_MAX = 6,
};

struct ledger_entry {
    uint64_t unique; /* 0: free */
    uint64_t suspicion;
};

struct ledger {
    pthread_mutex_t lock;
    unsigned weight; /* SUSPICION_* of the server before */
    struct ledger_entry *entries; /* NULL where nothing is counted */
};

/* `fd` has LEDGER_BYTES, zeros at first; -1: nothing is counted. `killed` says that the server
 * before this one was killed. 0 or an errno. */
int ledger_init(struct ledger *ledger, int fd, bool killed);
void ledger_destroy(struct ledger *ledger);
/* A request arrives that was sent before: how suspect it is now. 0 where there is no room for it. */
unsigned ledger_note(struct ledger *ledger, uint64_t unique);
/* It was answered. */
void ledger_forget(struct ledger *ledger, uint64_t unique);
/* Nothing that was sent again is to blame for the end of a server: neither what is under way, nor
 * that whose caller is gone. */
void ledger_clear(struct ledger *ledger);

#endif
