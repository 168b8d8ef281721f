#define _GNU_SOURCE
#include "replier.h"

#include <errno.h>
#include <sys/socket.h>

#include "abandoned.h"
#include "amend.h"
#include "mux.h"
#include "reply.h"

static void copy_reply(struct mux *mux, char *message, size_t length)
{
    const struct fuse_out_header *out = (const void *)message;
    struct pending_request request;
    uint64_t unique;

    if (length < sizeof *out) {
        mux_count(&mux->stats.reply_errors, 1);
        return;
    }
    unique = out->unique;
    if (!unique) {
        outlet_send(&mux->notifier, message, length);
        return;
    }
    callers_remove(&mux->callers, unique);
    if (!pending_take(&mux->pending, unique, &request))
        request = (struct pending_request){.unique = unique};
    if (length > REPLY_BYTES) {
        /* It was cut off by recv(), and its header is whole. */
        mux_count(&mux->stats.reply_errors, 1);
        if (!request.answered)
            mux_reply_error(mux, unique, EIO);
    } else if (request.answered) {
        take_back(mux, &request, message, length);
    } else if (amend_reply(mux, request.opcode, message, length)) {
        mux_reply_message(mux, unique, message, length);
    }
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
