#include "abandoned.h"

#include <string.h>

#include "forward.h"
#include "mux.h"

/* Numbers that no kernel comes to, counting in twos. */
static uint64_t own_unique(struct mux *mux)
{
    return 1ULL << 62 | (atomic_fetch_add(&mux->own_uniques, 1) & 0xffffffff) << 1;
}

static void forget(struct mux *mux, uint64_t nodeid)
{
    struct {
        struct fuse_in_header in;
        struct fuse_forget_in body;
    } message = {
        .in = {.len = sizeof message, .opcode = FUSE_FORGET, .nodeid = nodeid},
        .body = {.nlookup = 1},
    };
    struct arrival arrival = {mux, NULL, &message.in, &message.body, sizeof message.body};

    /* A negative entry has no number, and is not counted. */
    if (!nodeid)
        return;
    message.in.unique = own_unique(mux);
    pass_on(&arrival);
}

static void release(struct mux *mux, uint32_t opcode, uint64_t nodeid, uint64_t fh)
{
    struct {
        struct fuse_in_header in;
        struct fuse_release_in body;
    } message = {
        .in = {.len = sizeof message, .opcode = opcode, .nodeid = nodeid},
        .body = {.fh = fh},
    };
    struct arrival arrival = {mux, NULL, &message.in, &message.body, sizeof message.body};
    struct pending_request request = {.opcode = opcode, .nodeid = nodeid, .answered = true};

    message.in.unique = request.unique = own_unique(mux);
    /* Its reply is not for the kernel; without memory it goes there, and is not wanted. */
    pending_add(&mux->pending, &request);
    if (opcode == FUSE_RELEASE)
        on_release(&arrival);
    else
        pass_on(&arrival);
}

/* The entries of a READDIRPLUS reply, each with a name behind it, padded to 8 bytes. */
static void forget_entries(struct mux *mux, const char *payload, size_t size)
{
    while (size >= FUSE_NAME_OFFSET_DIRENTPLUS) {
        struct fuse_direntplus entry;
        size_t length;

        memcpy(&entry, payload, FUSE_NAME_OFFSET_DIRENTPLUS);
        length = FUSE_DIRENTPLUS_SIZE(&entry);
        if (length > size)
            return;
        forget(mux, entry.entry_out.nodeid);
        payload += length;
        size -= length;
    }
}

void take_back(struct mux *mux, const struct pending_request *request, const char *message,
               size_t length)
{
    const struct fuse_out_header *out = (const void *)message;
    const char *payload = message + sizeof *out;
    size_t size = length - sizeof *out;
    struct fuse_entry_out entry;
    struct fuse_open_out open;

    if (out->error)
        return;
    if (request->opcode == FUSE_LOOKUP && size >= sizeof entry) {
        memcpy(&entry, payload, sizeof entry);
        forget(mux, entry.nodeid);
    } else if (request->opcode == FUSE_READDIRPLUS) {
        forget_entries(mux, payload, size);
    } else if (request->opcode == FUSE_OPEN && size >= sizeof open) {
        memcpy(&open, payload, sizeof open);
        release(mux, FUSE_RELEASE, request->nodeid, open.fh);
    } else if (request->opcode == FUSE_OPENDIR && size >= sizeof open) {
        memcpy(&open, payload, sizeof open);
        release(mux, FUSE_RELEASEDIR, request->nodeid, open.fh);
    }
}
