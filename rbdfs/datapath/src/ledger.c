#include "ledger.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

int ledger_init(struct ledger *ledger, int fd, bool killed)
{
    void *memory = NULL;

    if (fd >= 0)
        memory = mmap(NULL, LEDGER_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        return errno;
    ledger->entries = memory;
    ledger->weight = killed ? SUSPICION_KILLED : SUSPICION_CRASHED;
    pthread_mutex_init(&ledger->lock, NULL);
    return 0;
}

void ledger_destroy(struct ledger *ledger)
{
    if (ledger->entries)
        munmap(ledger->entries, LEDGER_BYTES);
    pthread_mutex_destroy(&ledger->lock);
}

/* The entry with this number, or NULL. */
static struct ledger_entry *find(struct ledger *ledger, uint64_t unique)
{
    for (size_t i = 0; ledger->entries && i < LEDGER_ENTRIES; i++)
        if (ledger->entries[i].unique == unique)
            return &ledger->entries[i];
    return NULL;
}

unsigned ledger_note(struct ledger *ledger, uint64_t unique)
{
    struct ledger_entry *entry;
    unsigned suspicion = 0;

    pthread_mutex_lock(&ledger->lock);
    entry = find(ledger, unique);
    if (!entry && (entry = find(ledger, 0))) {
        entry->suspicion = 0;
        entry->unique = unique;
    }
    if (entry)
        suspicion = (unsigned)(entry->suspicion += ledger->weight);
    pthread_mutex_unlock(&ledger->lock);
    return suspicion;
}

void ledger_forget(struct ledger *ledger, uint64_t unique)
{
    struct ledger_entry *entry;

    pthread_mutex_lock(&ledger->lock);
    entry = find(ledger, unique);
    if (entry)
        entry->unique = 0;
    pthread_mutex_unlock(&ledger->lock);
}

void ledger_clear(struct ledger *ledger)
{
    pthread_mutex_lock(&ledger->lock);
    if (ledger->entries)
        memset(ledger->entries, 0, LEDGER_BYTES);
    pthread_mutex_unlock(&ledger->lock);
}
