/* The data path between a kernel, a pyfuse3 and a Python that say anything, on the librbd of the tests.
 *
 * An input is a list of steps, each a byte for its kind and its own operands (see step()). What is
 * promised: no access out of bounds; librbd is asked for nothing outside of a registered file, or
 * for a write to one that may not be written to; every request has one answer, whoever gives it,
 * and nothing is left at the end.
 *
 * For the sake of inputs that do the same each time, no thread of the mux is started: its functions
 * are called here, in the threads' stead, and each step ends when librbd has nothing to do any
 * more, or is held.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <rbd/librbd.h>
#include <sanitizer/asan_interface.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "dispatch.h"
#include "interrupts.h"
#include "lifecycle.h"
#include "mux.h"
#include "replier.h"
#include "reply.h"
#include "thread.h"

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: broken promise: %s\n", __FILE__, __LINE__, #condition);        \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

enum { PYFUSE3 = 'p', PYTHON = 'x' };
enum { CALL_READ, CALL_WRITE, CALL_FLUSH, CALLS }; /* of fake_librbd.c */
void fake_hold(int on);
void fake_result(int call, int result, int submit_result);

enum { MESSAGES = 64, FILES = 4, WAIT_MS = 1, PATIENCE_S = 5 };

/* The last one has an image of its own. */
static const struct registration_options FILES_OF[FILES] = {
    {.fh = 7, .offset = 0, .length = 128 << 10, .readable = true, .writable = true},
    {.fh = 8, .offset = 1 << 20, .length = 4097, .readable = true, .open_flags = 1 << 6},
    {.fh = 9, .offset = 2 << 20, .length = 64 << 10, .writable = true, .ignore_sync = true},
    {.fh = 10, .offset = 3 << 20, .length = 2 << 20, .readable = true, .writable = true},
};

struct asked {
    uint32_t opcode;
    uint64_t resent; /* FUSE_UNIQUE_RESEND, or 0 */
    unsigned replies;
    uint32_t most; /* bytes that a READ asks for */
    char passed_to; /* PYFUSE3, PYTHON, or 0 */
    bool done;      /* and whoever it is has answered it */
};

struct stage {
    struct mux *mux;
    struct open_image *images[2];
    int kernel, pyfuse3, python; /* the other ends */
    bool held;
    unsigned count, unasked; /* requests; replies of pyfuse3 to none */
    struct asked asked[MESSAGES];
    const uint8_t *data, *end;
    char buffer[REPLY_BYTES];
};

/* librbd, as the data path asks it. */

static void check_range(uint64_t offset, size_t length, bool write)
{
    for (int i = 0; i < FILES; i++) {
        const struct registration_options *file = &FILES_OF[i];
        if ((write ? file->writable : file->readable) && offset >= file->offset &&
            length <= file->length && offset - file->offset <= file->length - length)
            return;
    }
    CHECK(!"librbd is asked for what is in no file");
}

int __real_rbd_aio_read(rbd_image_t, uint64_t, size_t, char *, rbd_completion_t);
int __real_rbd_aio_write(rbd_image_t, uint64_t, size_t, const char *, rbd_completion_t);

int __wrap_rbd_aio_read(rbd_image_t image, uint64_t offset, size_t length, char *data,
                        rbd_completion_t completion)
{
    check_range(offset, length, false);
    return __real_rbd_aio_read(image, offset, length, data, completion);
}

int __wrap_rbd_aio_write(rbd_image_t image, uint64_t offset, size_t length, const char *data,
                         rbd_completion_t completion)
{
    check_range(offset, length, true);
    return __real_rbd_aio_write(image, offset, length, data, completion);
}

/* Operands. */

static uint64_t number(struct stage *stage, size_t width)
{
    uint64_t value = 0;

    for (size_t i = 0; i < width && stage->data < stage->end; i++)
        value |= (uint64_t)*stage->data++ << 8 * i;
    return value;
}

/* A length of two bytes, and so many; or as many as are left. */
static const uint8_t *chunk(struct stage *stage, size_t *length)
{
    const uint8_t *data;

    *length = number(stage, 2);
    if (*length > (size_t)(stage->end - stage->data))
        *length = stage->end - stage->data;
    data = stage->data;
    stage->data += *length;
    return data;
}

/* What comes out of the data path. */

/* The request with this number, or NULL: one of the mux's own, or of nobody. */
static struct asked *find(struct stage *stage, uint64_t unique)
{
    uint64_t index = (unique & ~FUSE_UNIQUE_RESEND) / 2 - 1;

    return index < stage->count ? &stage->asked[index] : NULL;
}

static void take_reply(struct stage *stage, size_t length)
{
    const struct fuse_out_header *out = (const void *)stage->buffer;
    struct asked *asked;

    CHECK(length >= sizeof *out);
    asked = find(stage, out->unique);
    if (!asked)
        return; /* a notification, or a reply to what nobody asked */
    asked->replies++;
    CHECK(out->len == length && out->error <= 0 && out->error > -512);
    if (asked->opcode == FUSE_READ && !asked->passed_to)
        CHECK(length - sizeof *out <= asked->most);
}

static void take_message(struct stage *stage, size_t length, char passed_to)
{
    const struct fuse_in_header *in = (const void *)stage->buffer;
    struct asked *asked;

    CHECK(length >= sizeof *in && in->len == length);
    asked = find(stage, in->unique);
    if (in->opcode & OPCODE_ABANDONED) {
        /* Python does so, if it has not been answered. */
        CHECK(asked && passed_to == PYTHON);
        if (interrupt_take(stage->mux, in->unique))
            interrupt_answer(stage->mux, in->unique);
    } else if (asked) {
        CHECK(!asked->passed_to);
        asked->passed_to = passed_to;
    } else if (has_reply(in->opcode)) {
        /* What the mux asks by itself; its answer is not for the kernel. */
        struct fuse_out_header out = {.len = sizeof out, .unique = in->unique};
        CHECK(in->unique & 1ULL << 62);
        CHECK(send(stage->pyfuse3, &out, sizeof out, 0) == sizeof out);
    }
}

static bool take_one(struct stage *stage)
{
    ssize_t length = recv(stage->kernel, stage->buffer, sizeof stage->buffer, MSG_DONTWAIT);

    if (length > 0)
        take_reply(stage, length);
    else if ((length = recv(stage->pyfuse3, stage->buffer, sizeof stage->buffer, MSG_DONTWAIT)) > 0)
        take_message(stage, length, PYFUSE3);
    else if ((length = recv(stage->python, stage->buffer, sizeof stage->buffer, MSG_DONTWAIT)) > 0)
        take_message(stage, length, PYTHON);
    return length > 0;
}

/* Until nothing moves any more. */
static void settle(struct stage *stage)
{
    struct timespec deadline = deadline_in(PATIENCE_S), now;
    bool idle = false;

    for (;;) {
        /* In this order: what was answered before it was idle is there. */
        bool was_idle = stage->held || idle;
        replier_main(stage->mux); /* its socket does not block, so this ends */
        if (take_one(stage))
            continue;
        if (was_idle)
            break;
        idle = !mux_read_gauges(stage->mux).active;
        if (!idle) {
            struct pollfd kernel = {.fd = stage->kernel, .events = POLLIN};
            poll(&kernel, 1, WAIT_MS);
            clock_gettime(CLOCK_MONOTONIC, &now);
            CHECK(now.tv_sec <= deadline.tv_sec);
        }
    }
}

/* Steps. */

enum { RESENT = 1, WRONG_LENGTH = 2, FILLED = 4, THIRD_TIME = 8, REFUSED = 16 };

/* The header of a message, of which the body is there, with what the flags ask for. */
static void make_header(struct stage *stage, struct fuse_in_header *in, uint8_t flags, size_t length)
{
    in->len = length;
    in->unique = 2 * (stage->count + 1ULL);
    if (in->nodeid & 1)
        in->pid = getpid();
    if (flags & REFUSED)
        in->opcode |= OPCODE_REFUSED;
    if (flags & WRONG_LENGTH)
        in->len += (int8_t)number(stage, 1);
    if (flags & (RESENT | THIRD_TIME))
        in->unique |= FUSE_UNIQUE_RESEND;
    if (flags & THIRD_TIME && has_reply(in->opcode))
        for (unsigned i = 1; i * stage->mux->ledger.weight < SUSPICION_MAX; i++)
            ledger_note(&stage->mux->ledger, in->unique);
}

/* A message of the kernel: flags, an opcode, a node, and a chunk for its body. */
static void kernel_sends(struct stage *stage)
{
    struct block *block = pool_get(&stage->mux->pool, LARGE_BYTES), *mine = block;
    struct fuse_in_header *in = (void *)block_message(block);
    uint8_t flags = number(stage, 1);
    struct asked *asked = &stage->asked[stage->count];
    size_t length;
    const uint8_t *body;
    char *end;

    *in = (struct fuse_in_header){.opcode = number(stage, 1), .nodeid = number(stage, 1)};
    body = chunk(stage, &length);
    memcpy(in + 1, body, length);
    *asked = (struct asked){0};
    if (in->opcode == FUSE_WRITE && flags & FILLED && length >= sizeof(struct fuse_write_in)) {
        struct fuse_write_in *write = (void *)(in + 1);
        write->size %= LARGE_BYTES + 1;
        length = sizeof *write + write->size;
    } else if (in->opcode == FUSE_READ && length >= sizeof(struct fuse_read_in)) {
        asked->most = ((struct fuse_read_in *)(in + 1))->size;
    }
    length += sizeof *in;
    make_header(stage, in, flags, length);
    asked->opcode = in->opcode;
    asked->resent = in->unique & FUSE_UNIQUE_RESEND;
    stage->count++;
    /* What is behind the message is of no message. */
    end = (char *)in + length;
    ASAN_POISON_MEMORY_REGION(end, block_data(block) + LARGE_BYTES - end);
    dispatch(stage->mux, &mine, length);
    ASAN_UNPOISON_MEMORY_REGION(end, block_data(block) + LARGE_BYTES - end);
    if (mine)
        pool_put(&stage->mux->pool, mine);
}

/* An answer to the oldest request that has none, by who has got it. */
static void is_answered(struct stage *stage, char by, int error, const uint8_t *payload, size_t length)
{
    struct fuse_out_header *out = (void *)stage->buffer;
    unsigned i = 0;

    while (i < stage->count && (stage->asked[i].passed_to != by || stage->asked[i].done ||
                                !has_reply(stage->asked[i].opcode)))
        i++;
    if (i == stage->count)
        return;
    stage->asked[i].done = true;
    *out = (struct fuse_out_header){.len = sizeof *out + length, .error = -error};
    out->unique = 2 * (i + 1ULL) | stage->asked[i].resent;
    memcpy(out + 1, payload, length);
    if (by == PYFUSE3)
        CHECK(send(stage->pyfuse3, out, out->len, 0) == out->len);
    else
        mux_reply_extra(stage->mux, stage->buffer, out->len);
}

/* What libfuse would not say: a notification, an answer to nothing, or no message at all. */
static void pyfuse3_babbles(struct stage *stage)
{
    bool notifies = number(stage, 1) & 1;
    size_t length;
    const uint8_t *message = chunk(stage, &length);
    struct fuse_out_header *out = (void *)stage->buffer;

    if (!length)
        return; /* that would be the end */
    memcpy(stage->buffer, message, length);
    if (length >= sizeof *out) {
        out->unique = notifies ? 0 : 1ULL << 40 | (out->unique & 0xff);
        stage->unasked += !notifies;
    }
    CHECK(send(stage->pyfuse3, stage->buffer, length, 0) == (ssize_t)length);
}

/* How librbd answers from here on. */
static void librbd_fails(struct stage *stage)
{
    static const int errors[] = {0, EIO, ENOSPC, ESHUTDOWN, ETIMEDOUT, EDQUOT, 4095, EROFS};
    unsigned call = number(stage, 1), error = errors[call >> 4 & 7];

    fake_result(call % CALLS, call & 0x80 ? 0 : -error, call & 0x80 ? -error : 0);
}

/* Python opens, closes, and changes the length of a file. */
static void python_does(struct stage *stage)
{
    unsigned what = number(stage, 1);
    const struct registration_options *file = &FILES_OF[what % FILES];
    struct registration *registration;

    switch (what / FILES % 4) {
    case 0:
        mux_register(stage->mux, stage->images[file == &FILES_OF[FILES - 1]], file);
        break;
    case 1:
        mux_set_length(stage->mux, file->fh, number(stage, 8) % (file->length + 1));
        break;
    case 2:
        registration = table_remove(&stage->mux->table, file->fh);
        if (registration)
            registration_unref(registration);
        break;
    default:
        callers_take(&stage->mux->callers, number(stage, 1), number(stage, 1), getpid());
    }
}

static void time_passes(struct stage *stage)
{
    struct interrupts *interrupts = &stage->mux->interrupts;

    for (size_t i = 0; i < interrupts->count; i++)
        interrupts->items[i].due_ms = 0;
    interrupts_run(stage->mux);
}

static void step(struct stage *stage)
{
    size_t length;
    const uint8_t *payload;
    unsigned kind = number(stage, 1);

    switch (kind & 7) {
    case 0:
    case 1:
        if (stage->count < MESSAGES)
            kernel_sends(stage);
        break;
    case 2:
        payload = chunk(stage, &length);
        is_answered(stage, PYFUSE3, kind >> 3, payload, length);
        break;
    case 3:
        payload = chunk(stage, &length);
        is_answered(stage, PYTHON, kind >> 3, payload, length);
        break;
    case 4:
        pyfuse3_babbles(stage);
        break;
    case 5:
        librbd_fails(stage);
        break;
    case 6:
        stage->held = kind & 8;
        fake_hold(stage->held);
        break;
    default:
        if (kind & 8)
            time_passes(stage);
        else
            python_does(stage);
    }
    settle(stage);
}

/* The whole. */

static int ends(int *other)
{
    int pair[2];

    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
    *other = pair[0];
    return pair[1];
}

static void begin(struct stage *stage)
{
    static const struct mux_settings settings = {
        .max_write = 64 << 10,
        .max_background = 64,
        .page_bytes = 4096,
        .image_requests = 4,
        .image_bytes = 256 << 10,
        .init_set = FUSE_MAX_PAGES | FUSE_HAS_RESEND | FUSE_PARALLEL_DIROPS,
        .init_clear = FUSE_WRITEBACK_CACHE,
    };
    int device = ends(&stage->kernel), pyfuse3 = ends(&stage->pyfuse3), extra = ends(&stage->python);
    int ledger = memfd_create("ledger", MFD_CLOEXEC);
    rbd_image_t rbd;

    CHECK(ledger >= 0 && ftruncate(ledger, LEDGER_BYTES) == 0);
    stage->mux = mux_new(device, pyfuse3, extra, ledger, -1, &settings);
    CHECK(stage->mux);
    for (int *fd = (int[]){device, pyfuse3, extra, ledger, -1}; *fd >= 0; fd++)
        close(*fd);
    CHECK(fcntl(stage->mux->pyfuse3_fd, F_SETFL, O_NONBLOCK) == 0);
    for (int i = 0; i < 2; i++) {
        rbd_open(NULL, "image", &rbd, NULL);
        CHECK((stage->images[i] = open_image_new(rbd)));
    }
    for (int i = 0; i < FILES; i++)
        CHECK(!mux_register(stage->mux, stage->images[i == FILES - 1], &FILES_OF[i]));
}

/* Everybody answers what he has, and librbd does what it is asked. */
static void finish_all(struct stage *stage)
{
    for (int call = 0; call < CALLS; call++)
        fake_result(call, 0, 0);
    stage->held = false;
    fake_hold(false);
    settle(stage);
    for (unsigned i = 0; i < stage->count; i++) {
        is_answered(stage, PYFUSE3, EIO, (const uint8_t *)"", 0);
        is_answered(stage, PYTHON, EIO, (const uint8_t *)"", 0);
        settle(stage);
    }
}

static void check_nothing_is_left(struct stage *stage)
{
    struct mux *mux = stage->mux;
    struct mux_gauges gauges = mux_read_gauges(mux);

    for (unsigned i = 0; i < stage->count; i++)
        CHECK(stage->asked[i].replies == has_reply(stage->asked[i].opcode));
    CHECK(!gauges.active && gauges.unreplied == -(long)stage->unasked);
    CHECK(!mux->callers.count);
    for (int i = 0; i < PENDING_BUCKETS; i++)
        CHECK(!mux->pending.buckets[i]);
    for (int i = 0; i < LEDGER_ENTRIES; i++)
        CHECK(!mux->ledger.entries[i].unique);
}

static void end(struct stage *stage)
{
    struct timespec deadline = deadline_in(PATIENCE_S);

    if (stage->mux->notifier.head)
        CHECK(!outlet_start(&stage->mux->notifier) &&
              !outlet_finish(&stage->mux->notifier, &deadline));
    CHECK(!mux_stop(stage->mux, &deadline));
    mux_free(stage->mux);
    for (int i = 0; i < 2; i++) {
        CHECK(atomic_load(&stage->images[i]->references) == 1);
        open_image_unref(stage->images[i]);
    }
    close(stage->kernel);
    close(stage->pyfuse3);
    close(stage->python);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct stage stage;

    memset(&stage, 0, offsetof(struct stage, buffer));
    stage.data = data;
    stage.end = data + size;
    begin(&stage);
    settle(&stage);
    while (stage.data < stage.end)
        step(&stage);
    finish_all(&stage);
    check_nothing_is_left(&stage);
    end(&stage);
    return 0;
}
