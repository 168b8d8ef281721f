#define _GNU_SOURCE
#include "replier.h"

#include <errno.h>
#include <sys/socket.h>

#include "amend.h"
#include "mux.h"
#include "reply.h"

static void copy_reply(struct mux *mux, char *message, size_t length)
{
    const struct fuse_out_header *out = (const void *)message;
    uint64_t unique;

    if (length < sizeof *out || length > REPLY_BYTES) {
        mux_count(&mux->stats.reply_errors, 1);
        /* Cut off by recv: its header is whole. */
        if (length > REPLY_BYTES && out->unique) {
            mux_reply_error(mux, out->unique, EIO);
            mux_add_unreplied(mux, -1);
        }
        return;
    }
    unique = out->unique;
    if (!unique) {
        outlet_send(&mux->notifier, message, length);
        return;
    }
    callers_remove(&mux->callers, unique);
    if (amend_reply(mux, message, length))
        mux_reply_message(mux, unique, message, length);
    /* The lowest bit marks an INTERRUPT, which libfuse answers with EAGAIN when it was too
     * early. */
    if (!(unique & 1))
        mux_add_unreplied(mux, -1);
}

void *replier_main(void *arg)
{
    struct mux *mux = arg;

    for (;;) {
        ssize_t length = recv(mux->pyfuse3_fd, mux->reply, REPLY_BYTES, MSG_TRUNC);

        if (length < 0 && errno == EINTR)
            continue;
        if (length <= 0)
            break;
        copy_reply(mux, mux->reply, length);
    }
    return NULL;
}
