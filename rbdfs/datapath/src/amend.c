#include "amend.h"

#include <string.h>

#include "mux.h"

static uint64_t init_flags(uint32_t flags, uint32_t flags2)
{
    return flags & FUSE_INIT_EXT ? flags | (uint64_t)flags2 << 32 : flags;
}

void record_init(struct mux *mux, const char *message, size_t length)
{
    const struct fuse_in_header *in = (const void *)message;
    const struct fuse_init_in *init = (const void *)(in + 1);

    pthread_mutex_lock(&mux->lock);
    /* A shorter one comes from a kernel before 7.36, and has no second half of flags. */
    mux->init_offered = 0;
    if (length >= sizeof *in + 16)
        mux->init_offered = init_flags(init->flags, length >= sizeof *in + 20 ? init->flags2 : 0);
    mux->init_unique = in->unique;
    mux->init_state = INIT_AMEND;
    mux->init_length = length < INIT_BYTES ? length : INIT_BYTES;
    memcpy(mux->init, message, mux->init_length);
    pthread_mutex_unlock(&mux->lock);
}

static void amend_init(struct mux *mux, struct fuse_init_out *init)
{
    const struct mux_settings *settings = &mux->settings;
    uint64_t flags = init_flags(init->flags, init->flags2);

    /* pyfuse3's buffers hold a megabyte: libfuse 3 reads 256 pages and a header at a time, and has
     * said so in its own reply unless a limit was set there. */
    if (init->max_write > settings->max_write || mux->init_offered & FUSE_MAX_PAGES)
        init->max_write = settings->max_write;
    flags |= settings->init_set & mux->init_offered;
    flags &= ~settings->init_clear;
    if (flags & FUSE_MAX_PAGES)
        init->max_pages = (settings->max_write + settings->page_bytes - 1) / settings->page_bytes;
    init->max_background = settings->max_background;
    init->congestion_threshold = settings->max_background / 4 * 3;
    if (mux->init_offered & FUSE_INIT_EXT)
        flags |= FUSE_INIT_EXT;
    else
        flags &= 0xffffffffULL;
    init->flags = (uint32_t)flags;
    init->flags2 = (uint32_t)(flags >> 32);
}

/* What open_out of an image's file gets beyond what pyfuse3 can say. */
static void amend_open(struct mux *mux, struct fuse_open_out *open)
{
    struct registration *registration = table_find(&mux->table, open->fh);

    if (!registration)
        return;
    open->open_flags |= registration->open_flags;
    atomic_store(&registration->direct, open->open_flags & FOPEN_DIRECT_IO);
    registration_unref(registration);
}

static enum init_state take_init_state(struct mux *mux, uint64_t unique)
{
    enum init_state state = INIT_DONE;

    pthread_mutex_lock(&mux->lock);
    if (mux->init_unique == unique && mux->init_state != INIT_NONE) {
        state = mux->init_state;
        mux->init_state = INIT_DONE;
    }
    pthread_mutex_unlock(&mux->lock);
    return state;
}

bool amend_reply(struct mux *mux, uint32_t opcode, char *message, size_t length)
{
    struct fuse_out_header *out = (void *)message;
    char *payload = message + sizeof *out;
    size_t size = length - sizeof *out;
    enum init_state init = take_init_state(mux, out->unique);

    if (init == INIT_SWALLOW)
        return false;
    if (init == INIT_AMEND && !out->error && size == sizeof(struct fuse_init_out))
        amend_init(mux, (void *)payload);
    if ((opcode == FUSE_OPEN || opcode == FUSE_CREATE) && !out->error) {
        /* CREATE has the attributes of the new file before it. */
        if (size == sizeof(struct fuse_open_out))
            amend_open(mux, (void *)payload);
        else if (size == sizeof(struct fuse_entry_out) + sizeof(struct fuse_open_out))
            amend_open(mux, (void *)(payload + sizeof(struct fuse_entry_out)));
    }
    return true;
}
