#define _GNU_SOURCE
#include "dispatch.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>

#include "amend.h"
#include "forward.h"
#include "mux.h"
#include "reply.h"
#include "request.h"

static enum meter_operation operation_of(const struct arrival *arrival)
{
    switch (arrival->in->opcode) {
    case FUSE_READ:
        return METER_READ;
    case FUSE_WRITE:
        return METER_WRITE;
    case FUSE_FSYNC:
        return METER_FLUSH;
    default:
        return METER_CLOSE;
    }
}

/* Nothing is to be done for a request on a registered file, or there is no memory for it. */
static void answer_at_once(const struct arrival *arrival, struct registration *registration,
                           uint64_t offset, uint32_t length, int error)
{
    struct trace_record record = {
        .fh = registration->fh,
        .offset = offset,
        .length = length,
        .opcode = arrival->in->opcode,
        .error = error,
    };

    meter_at_once(registration->meters, operation_of(arrival), error);
    if (arrival->mux->trace.on)
        trace_add(&arrival->mux->trace, &record);
    if (error)
        mux_reply_error(arrival->mux, arrival->in->unique, error);
    else
        mux_reply(arrival->mux, arrival->in->unique, NULL, 0);
    registration_unref(registration);
}

/* Begin a request on a registered file, whose reference (the caller's) goes with it, and so does
 * `data`. */
static void start(const struct arrival *arrival, struct registration *registration,
                  enum request_kind kind, uint64_t offset, uint32_t length, struct block *data,
                  bool flush_after, bool direct)
{
    struct request *request = request_new(arrival->mux, arrival->in->unique);

    if (!request) {
        if (data)
            pool_put(&arrival->mux->pool, data);
        answer_at_once(arrival, registration, offset, length, ENOMEM);
        return;
    }
    request->registration = registration;
    request->fh = registration->fh;
    request->opcode = arrival->in->opcode;
    request->kind = kind;
    request->offset = registration->offset + offset;
    request->length = length;
    request->data = data;
    request->flush_after = flush_after;
    request->pid = arrival->in->pid;
    request->direct = direct;
    request->operation = operation_of(arrival);
    request->begun_ns = meter_begin(registration->meters, request->operation);
    request_start(request);
}

static void on_read(const struct arrival *arrival)
{
    const struct fuse_read_in *read = arrival->body;
    struct mux *mux = arrival->mux;
    struct registration *registration;
    uint64_t length, count = 0;

    if (arrival->size < sizeof *read || read->size > LARGE_BYTES) {
        reject(arrival, EINVAL);
        return;
    }
    registration = table_find(&mux->table, read->fh);
    if (!registration || !registration->readable) {
        if (registration)
            registration_unref(registration);
        /* To Python. What pyfuse3 answers comes in a packet, and the kernel may have no memory for a
         * large one: libfuse drops it then, and its caller would wait for ever. Nor is pyfuse3 told
         * who reads, and so what is not to be waited for any longer. */
        on_extra(arrival, 0);
        return;
    }
    length = atomic_load(&registration->length);
    if (read->offset < length)
        count = length - read->offset < read->size ? length - read->offset : read->size;
    mux_count(&mux->stats.reads, 1);
    mux_count(&mux->stats.bytes_read, count);
    if (count) {
        start(arrival, registration, REQUEST_READ, read->offset, count, NULL, false,
              read->flags & O_DIRECT || atomic_load(&registration->direct));
    } else {
        answer_at_once(arrival, registration, read->offset, read->size, 0);
    }
}

/* The block with the data of a WRITE: the received one itself, or a copy that is no larger than it
 * has to be. The message lies at its place in the received block, so that the data are at
 * block_data(). */
static struct block *take_data(const struct arrival *arrival, const struct fuse_write_in *write)
{
    struct pool *pool = &arrival->mux->pool;
    struct block *block = *arrival->block;

    if (write->size > LARGE_BYTES / 2 || (write->size > SMALL_BYTES && !pool_is_strained(pool))) {
        *arrival->block = NULL;
        return block;
    }
    block = pool_get(pool, write->size);
    if (block)
        memcpy(block_data(block), write + 1, write->size);
    return block;
}

static bool can_write(struct registration *registration, const struct fuse_write_in *write)
{
    uint64_t length = atomic_load(&registration->length);

    return registration->writable && write->size && write->offset <= length &&
           write->size <= length - write->offset;
}

/* To Python, which pyfuse3 does not tell the flags of a request: O_DSYNC of one alone (RWF_DSYNC) would
 * be lost, and what O_DIRECT was set on after the open. */
static void pass_on_write(const struct arrival *arrival)
{
    struct fuse_write_in *write =
        (void *)(block_message(*arrival->block) + sizeof(struct fuse_in_header));

    if (write->flags & O_DIRECT)
        write->fh |= FH_DIRECT;
    if (write->flags & O_DSYNC)
        on_extra(arrival, 0);
    else
        pass_on(arrival);
}

static void on_write(const struct arrival *arrival)
{
    const struct fuse_write_in *write = arrival->body;
    struct mux *mux = arrival->mux;
    struct registration *registration;
    struct block *block;

    if (arrival->size < sizeof *write || arrival->size - sizeof *write != write->size) {
        reject(arrival, EINVAL);
        return;
    }
    registration = table_find(&mux->table, write->fh);
    if (registration)
        atomic_store(&registration->dirty, true);
    if (!registration || !can_write(registration, write)) {
        if (registration)
            registration_unref(registration);
        pass_on_write(arrival);
        return;
    }
    mux_count(&mux->stats.writes, 1);
    mux_count(&mux->stats.bytes_written, write->size);
    block = take_data(arrival, write);
    if (!block) {
        answer_at_once(arrival, registration, write->offset, write->size, ENOMEM);
        return;
    }
    /* The kernel leaves O_DSYNC of direct writes to us. */
    start(arrival, registration, REQUEST_WRITE, write->offset, write->size, block,
          write->flags & O_DSYNC && !registration->ignore_sync, false);
}

/*
 * FSYNC, and FLUSH, which has something to do only if this registration wrote. That of a reader
 * is for Python, which asks whether what was read is still there.
 */
static void on_sync(const struct arrival *arrival, bool always)
{
    const uint64_t *fh = arrival->body; /* the first member of both bodies */
    struct mux *mux = arrival->mux;
    struct registration *registration;
    bool dirty;

    if (arrival->size < sizeof(struct fuse_fsync_in)) {
        reject(arrival, EINVAL);
        return;
    }
    registration = table_find(&mux->table, *fh);
    if (!registration || (!always && !registration->writable)) {
        if (registration)
            registration_unref(registration);
        pass_on(arrival);
        return;
    }
    mux_count(&mux->stats.flushes, 1);
    dirty = atomic_exchange(&registration->dirty, false);
    if ((dirty || always) && !registration->ignore_sync) {
        start(arrival, registration, REQUEST_FLUSH, 0, 0, NULL, false, false);
    } else {
        answer_at_once(arrival, registration, 0, 0, 0);
    }
}

void dispatch(struct mux *mux, struct block **block, size_t length)
{
    const struct fuse_in_header *in = (const void *)block_message(*block);
    struct arrival arrival = {mux, block, in, in + 1, length - sizeof *in};

    if (length < sizeof *in) {
        mux_count(&mux->stats.malformed, 1);
        return;
    }
    if (in->len != length) {
        reject(&arrival, EIO);
        return;
    }
    if (in->unique & FUSE_UNIQUE_RESEND && has_reply(in->opcode)) {
        mux_count(&mux->stats.resent, 1);
        if (can_be_refused(in->opcode) &&
            ledger_note(&mux->ledger, in->unique) >= SUSPICION_MAX) {
            refuse(&arrival);
            return;
        }
    }
    switch (in->opcode) {
    case FUSE_READ:
        on_read(&arrival);
        break;
    case FUSE_WRITE:
        on_write(&arrival);
        break;
    case FUSE_FSYNC:
        on_sync(&arrival, true);
        break;
    case FUSE_FLUSH:
        on_sync(&arrival, false);
        break;
    case FUSE_RELEASE:
        on_release(&arrival);
        break;
    case FUSE_FALLOCATE:
    case FUSE_LSEEK:
        on_extra(&arrival, 0);
        break;
    case FUSE_COPY_FILE_RANGE:
    case OPCODE_COPY_FILE_RANGE_64:
        on_extra(&arrival, offsetof(struct fuse_copy_file_range_in, fh_out));
        break;
    case FUSE_INTERRUPT:
        on_interrupt(&arrival);
        break;
    case FUSE_INIT:
        record_init(mux, (const void *)in, length);
        pass_on(&arrival);
        break;
    default:
        pass_on(&arrival);
    }
}
