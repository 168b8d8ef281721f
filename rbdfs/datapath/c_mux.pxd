# cython: language_level=3
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from posix.time cimport timespec

from rbdfs.datapath.c_rbd cimport rbd_image_t

cdef extern from "src/thread.h" nogil:
    timespec deadline_in(double seconds)

cdef extern from "src/extents.h" nogil:
    struct extent:
        uint64_t offset, length, exists

    struct extents:
        extent *items
        size_t count, capacity

    int extents_add(uint64_t offset, size_t length, int exists, void *arg)

cdef extern from "src/watch.h" nogil:
    void image_updated(void *arg)

cdef extern from "src/image.h" nogil:
    struct image:
        rbd_image_t rbd
        unsigned long long written
        int failed
        unsigned running_count, parked_count, max_requests, handles
        size_t max_bytes
        bint suspended

    image *image_new(rbd_image_t rbd)
    void image_unref(image *image)
    bint image_begin_foreign(image *image)
    void image_end_foreign(image *image)
    int image_quiesce(image *image, const timespec *deadline)
    int image_wait_idle(image *image, const timespec *deadline)
    void image_limit(image *image, unsigned max_requests, size_t max_bytes)
    void image_suspend(image *image)

cdef extern from "src/handle.h" nogil:
    struct handle_options:
        uint64_t fh, offset, length
        bint readable, writable, ignore_sync
        uint32_t open_flags

    struct table:
        pass

    struct handle:
        uint64_t offset, length

    handle *table_find(table *table, uint64_t fh)
    handle *table_remove(table *table, uint64_t fh)
    void handle_unref(handle *handle)

cdef extern from "src/request.h" nogil:
    void request_fail_all(image *image, int error)
    void request_resume(image *image)

cdef extern from "src/mux.h" nogil:
    enum: LARGE_BYTES
    enum: MAX_READERS

    struct mux_settings:
        unsigned readers
        uint32_t max_write
        uint16_t max_background
        unsigned image_requests
        size_t image_bytes
        uint64_t init_set, init_clear

    struct mux_stats:
        uint64_t reads, writes, flushes, bytes_read, bytes_written, errors, passed_on, extra
        uint64_t malformed, undelivered, unwanted, reply_errors

    struct mux_gauges:
        size_t active
        long unreplied
        size_t handles

    struct mux:
        int ended, ended_fd
        mux_stats stats
        table table
        size_t init_length
        char *init

    mux *mux_new(int fuse_fd, int pyfuse3_fd, int extra_fd, const mux_settings *settings)
    int mux_start(mux *mux, const char *init, size_t init_length)
    int mux_drain(mux *mux, bint everything, const timespec *deadline)
    int mux_stop(mux *mux, const timespec *deadline)
    mux_gauges mux_read_gauges(mux *mux)
    void mux_free(mux *mux)
    int mux_reply_extra(mux *mux, const char *message, size_t length)
    int mux_register(mux *mux, image *image, const handle_options *options)
    int mux_set_length(mux *mux, uint64_t fh, uint64_t length)

cdef extern from "src/abi.h" nogil:
    const uint64_t FUSE_PARALLEL_DIROPS, FUSE_ASYNC_DIO, FUSE_MAX_PAGES
    const uint64_t FUSE_DIRECT_IO_ALLOW_MMAP, FUSE_HAS_RESEND, FUSE_WRITEBACK_CACHE
    const int FOPEN_DIRECT_IO, FOPEN_KEEP_CACHE, FOPEN_PARALLEL_DIRECT_WRITES
