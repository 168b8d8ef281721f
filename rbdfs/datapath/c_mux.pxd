# cython: language_level=3
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from posix.time cimport timespec

from rbdfs.datapath.c_rbd cimport rbd_completion_t, rbd_image_t

cdef extern from "src/thread.h" nogil:
    timespec deadline_in(double seconds)
    uint64_t now_ns()

cdef extern from "src/extents.h" nogil:
    struct extent:
        uint64_t offset, length, exists

    struct extents:
        extent *items
        size_t count, capacity

    int extents_add(uint64_t offset, size_t length, int exists, void *arg)

cdef extern from "src/open_image.h" nogil:
    struct open_image:
        rbd_image_t rbd
        unsigned long long completed_writes
        int failed

    open_image *open_image_new(rbd_image_t rbd)
    void open_image_unref(open_image *image)
    bint open_image_begin_call(open_image *image)
    void open_image_end_call(open_image *image)
    int open_image_quiesce(open_image *image, const timespec *deadline)

cdef extern from "src/completions.h" nogil:
    struct completions:
        int event_fd

    struct python_request:
        python_request *next
        completions *completions
        open_image *image
        rbd_completion_t handle
        ssize_t result
        void *owner

    int completions_init(completions *completions)
    void completions_destroy(completions *completions)
    python_request *completions_take(completions *completions)
    void on_python_completion(rbd_completion_t handle, void *request)

cdef extern from "src/meters.h" nogil:
    struct image_meters:
        pass

    struct meters:
        pass

    image_meters *meters_of(meters *meters, uint64_t number)

cdef extern from "src/registration.h" nogil:
    struct registration_options:
        uint64_t fh, offset, length
        bint readable, writable, ignore_sync, dirty, direct
        uint32_t open_flags
        image_meters *meters

    struct table:
        pass

    struct registration:
        pass

    registration *table_remove(table *table, uint64_t fh)
    void registration_unref(registration *registration)

cdef extern from "src/ledger.h" nogil:
    enum: LEDGER_BYTES

    struct ledger:
        pass

    void ledger_clear(ledger *ledger)

cdef extern from "src/block.h" nogil:
    enum: LARGE_BYTES

cdef extern from "src/mux.h" nogil:
    struct mux_settings:
        uint32_t max_write
        uint16_t max_background
        unsigned page_bytes
        unsigned image_requests
        size_t image_bytes
        bint trace, killed
        uint64_t init_set, init_clear

    struct mux_stats:
        uint64_t reads, writes, flushes, bytes_read, bytes_written, errors, passed_on, extra
        uint64_t malformed, undelivered, unwanted, reply_errors, read_errors, interrupted
        uint64_t resent, refused

    struct mux_gauges:
        size_t active
        long unreplied
        size_t registered

    struct callers:
        pass

    struct pending:
        pass

    struct trace_record:
        uint64_t fh, offset, duration_ns
        uint32_t length, opcode
        int error

    struct trace:
        int event_fd

    struct mux:
        callers callers
        pending pending
        ledger ledger
        meters meters
        trace trace
        int ended, ended_fd
        mux_stats stats
        table table
        size_t init_length
        char *init

    bint trace_take(trace *trace, trace_record *record)
    unsigned long long trace_take_lost(trace *trace)
    bint pending_was_answered(pending *pending, uint64_t unique)
    uint64_t callers_take(callers *callers, uint32_t opcode, uint64_t nodeid, uint32_t pid)
    mux_gauges mux_read_gauges(mux *mux)
    int mux_register(mux *mux, open_image *image, const registration_options *options)
    int mux_set_length(mux *mux, uint64_t fh, uint64_t length)

cdef extern from "src/request.h" nogil:
    struct waiting:
        uint64_t fh, begun_ns

    size_t request_list_waiting(mux *mux, uint64_t before_ns, waiting *found, size_t room,
                                uint64_t *oldest_ns)

cdef extern from "src/interrupts.h" nogil:
    bint interrupt_take(mux *mux, uint64_t unique)
    void interrupt_answer(mux *mux, uint64_t unique)

cdef extern from "src/reply.h" nogil:
    int mux_reply_extra(mux *mux, const char *message, size_t length)

cdef extern from "src/lifecycle.h" nogil:
    mux *mux_new(int fuse_fd, int pyfuse3_fd, int extra_fd, int ledger_fd,
                 int meters_fd, const mux_settings *settings)
    int mux_start(mux *mux, const char *init, size_t init_length)
    int mux_drain(mux *mux, bint everything, const timespec *deadline)
    int mux_stop(mux *mux, const timespec *deadline)
    void mux_free(mux *mux)

cdef extern from "src/abi.h" nogil:
    const uint64_t FUSE_PARALLEL_DIROPS, FUSE_ASYNC_DIO, FUSE_MAX_PAGES
    const uint64_t FUSE_DIRECT_IO_ALLOW_MMAP, FUSE_HAS_RESEND, FUSE_WRITEBACK_CACHE
    const int FOPEN_PARALLEL_DIRECT_WRITES
    const uint64_t FH_DIRECT
