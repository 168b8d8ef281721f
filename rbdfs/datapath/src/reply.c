#define _GNU_SOURCE
#include "reply.h"

#include <errno.h>
#include <poll.h>
#include <sys/uio.h>

#include "mux.h"

/* 0 or an errno. */
static int write_device(struct mux *mux, uint64_t unique, const struct iovec *parts, int count)
{
    /* What is answered takes no server down any more. */
    if (unique & FUSE_UNIQUE_RESEND)
        ledger_forget(&mux->ledger, unique);
    while (writev(mux->fuse_fd, parts, count) < 0) {
        struct pollfd device = {.fd = mux->fuse_fd, .events = POLLOUT};

        if (errno != EINTR && errno != EAGAIN)
            return errno;
        /* The device never is full; a socket in its place, in a test, may be. */
        if (errno == EAGAIN)
            poll(&device, 1, -1);
    }
    return 0;
}

/* Count what became of a reply; true if the kernel refused it and its caller still waits. */
static bool is_refused(struct mux *mux, int error)
{
    switch (error) {
    case 0:
        return false;
    case ENOENT: /* the request was aborted */
    case ENODEV: /* and so were all */
    case EPERM:
    case EPIPE:
        mux_count(&mux->stats.unwanted, 1);
        return false;
    default:
        mux_count(&mux->stats.reply_errors, 1);
        return true;
    }
}

static int write_error(struct mux *mux, uint64_t unique, int error)
{
    struct fuse_out_header out = {.len = sizeof out, .error = -error, .unique = unique};
    struct iovec part = {&out, sizeof out};

    return write_device(mux, unique, &part, 1);
}

void mux_reply_error(struct mux *mux, uint64_t unique, int error)
{
    /* What the kernel takes for an errno; librbd has been seen to make up others. */
    is_refused(mux, write_error(mux, unique, error > 0 && error < 512 ? error : EIO));
}

/* A reply with data failed, with no memory say. An error instead, or the caller waits for ever. */
static void answer_refused(struct mux *mux, uint64_t unique, int error)
{
    if (is_refused(mux, error))
        is_refused(mux, write_error(mux, unique, EIO));
}

void mux_reply(struct mux *mux, uint64_t unique, const void *payload, size_t length)
{
    struct fuse_out_header out = {.len = sizeof out + length, .unique = unique};
    struct iovec parts[] = {{&out, sizeof out}, {(void *)payload, length}};

    answer_refused(mux, unique, write_device(mux, unique, parts, length ? 2 : 1));
}

void mux_reply_in_place(struct mux *mux, uint64_t unique, char *payload, size_t length)
{
    struct fuse_out_header *out = (void *)(payload - sizeof *out);
    struct iovec part = {out, sizeof *out + length};

    *out = (struct fuse_out_header){.len = part.iov_len, .unique = unique};
    answer_refused(mux, unique, write_device(mux, unique, &part, 1));
}

int mux_reply_message(struct mux *mux, uint64_t unique, const char *message, size_t length)
{
    struct iovec part = {(void *)message, length};
    int error = write_device(mux, unique, &part, 1);

    answer_refused(mux, unique, error);
    return error;
}

int mux_reply_extra(struct mux *mux, const char *message, size_t length)
{
    const struct fuse_out_header *out = (const void *)message;
    struct pending_request request;
    int error = 0;

    if (length < sizeof *out || out->len != length)
        return EINVAL;
    /* Once only: the number may be another request's by the second time. */
    if (!pending_find(&mux->pending, out->unique, &request) || !request.python ||
        !pending_take(&mux->pending, out->unique, &request))
        return ENOENT;
    if (!request.answered)
        error = mux_reply_message(mux, out->unique, message, length);
    mux_add_unreplied(mux, -1);
    return error;
}
