/* How often requests were sent again: kept in memory that the keeper holds, so that it outlives
 * servers.
 *
 * A request upon which a server dies is resent to the next one, and so would take down each of
 * them. The count of a request is raised before anything is done with it, and dropped when it is
 * answered.
 */
#ifndef RBDFS_LEDGER_H
#define RBDFS_LEDGER_H

#include <pthread.h>
#include <stdint.h>

enum {
    LEDGER_BYTES = 4096,
    LEDGER_ENTRIES = LEDGER_BYTES / 16,
    /* What is sent again for the third time has seen three servers end. */
    RESENDS_MAX = 3,
};

struct ledger_entry {
    uint64_t unique; /* 0: free */
    uint64_t count;
};

struct ledger {
    pthread_mutex_t lock;
    struct ledger_entry *entries; /* NULL where nothing is counted */
};

/* `fd` has LEDGER_BYTES, zeros at first; -1: nothing is counted. 0 or an errno. */
int ledger_init(struct ledger *ledger, int fd);
void ledger_destroy(struct ledger *ledger);
/* Count one more arrival of a request that was sent before: how many there were. 0 where there is
 * no room to count. */
unsigned ledger_note(struct ledger *ledger, uint64_t unique);
/* It was answered. */
void ledger_forget(struct ledger *ledger, uint64_t unique);

#endif
