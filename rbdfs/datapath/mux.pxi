# The multiplexer. src/mux.h has its thread model and the order of its locks.

FOPEN_PARALLEL_DIRECT_WRITES = c_mux.FOPEN_PARALLEL_DIRECT_WRITES
FH_DIRECT = c_mux.FH_DIRECT
FUSE_WRITEBACK_CACHE = c_mux.FUSE_WRITEBACK_CACHE
MAX_WRITE = c_mux.LARGE_BYTES
LEDGER_BYTES = c_mux.LEDGER_BYTES
# What pyfuse3 with libfuse 3.14 does not ask for, or does not know.
INIT_FLAGS = (
    c_mux.FUSE_PARALLEL_DIROPS
    | c_mux.FUSE_ASYNC_DIO
    | c_mux.FUSE_MAX_PAGES
    | c_mux.FUSE_DIRECT_IO_ALLOW_MMAP
    | c_mux.FUSE_HAS_RESEND
)


# How many records of the trace are taken at once, and waiting requests looked at.
cdef enum:
    TRACE_MOST = 1024
    WAITING_MOST = 4096


cdef int descriptor(fd) except -1:
    return fd if isinstance(fd, int) else fd.fileno()


cdef class Mux:
    """Serve a FUSE connection: image files by librbd, the rest by pyfuse3 and Python.

    `fuse_fd` is the kernel's device (or a SOCK_SEQPACKET socket in its place), `pyfuse3_socket` and
    `extra_socket` are ends of SOCK_SEQPACKET pairs.  All three are duplicated; an int or an object
    with fileno().  The other end of extra_socket gets FALLOCATE, LSEEK, COPY_FILE_RANGE, and of
    what the Mux does not carry out READs and WRITEs with O_DSYNC, as the kernel sent them: `extra_requests.parse()` reads them, reply() answers.

    `max_write` bounds a request in bytes (what `connection.socket_pair()` says), `max_background` the
    number of asynchronous ones in the whole connection, `page_bytes` is the kernel's page.  One image has `image_requests` requests and
    `image_bytes` bytes in librbd at a time; more wait for their turn.  `init_set` and `init_clear` are
    INIT flags (linux/fuse.h) to set where the kernel offers them, and to clear.

    `ledger` is a descriptor of LEDGER_BYTES, zeros at first, that outlives this process: in it is which
    requests the kernel has sent again, and how often, until they are answered, or acquit() is called.
    One that comes for the third time, or for the sixth where each server was `killed`, as the one before
    this was or not, goes to extra_socket as `extra_requests.Refused`.

    `meters` is a descriptor of the memory of model/meters.py: what register() has said the image of is
    counted there.

    With `trace`, what the Mux answers by itself is kept for take_trace().
    """

    cdef c_mux.mux *mux
    cdef bint running

    def __cinit__(self):
        self.mux = NULL

    def __init__(self, fuse_fd, pyfuse3_socket, extra_socket, *,
                 uint32_t max_write=c_mux.LARGE_BYTES, max_background=1024, unsigned page_bytes=sysconf(_SC_PAGESIZE),
                 unsigned image_requests=256, size_t image_bytes=64 << 20,
                 uint64_t init_set=INIT_FLAGS, uint64_t init_clear=0, ledger=None,
                 bint killed=False, meters=None, bint trace=False):
        cdef c_mux.mux_settings settings
        if self.mux != NULL:
            raise RuntimeError("a Mux is set up once")
        if not 4096 <= max_write <= c_mux.LARGE_BYTES:
            raise ValueError(f"max_write: 4096 to {c_mux.LARGE_BYTES}")
        if not 1 <= max_background <= 65535:
            raise ValueError("max_background: 1 to 65535")
        if page_bytes < 4096:
            raise ValueError("page_bytes: 4096 or more")
        if not image_requests:
            raise ValueError("image_requests: 1 or more")
        settings.max_write = max_write
        settings.max_background = max_background
        settings.page_bytes = page_bytes
        settings.image_requests = image_requests
        settings.image_bytes = image_bytes
        settings.killed, settings.trace = killed, trace
        settings.init_set, settings.init_clear = init_set, init_clear
        self.mux = c_mux.mux_new(descriptor(fuse_fd), descriptor(pyfuse3_socket),
                                 descriptor(extra_socket),
                                 -1 if ledger is None else descriptor(ledger),
                                 -1 if meters is None else descriptor(meters), &settings)
        if self.mux == NULL:
            raise OSError(errno, os.strerror(errno))

    def __dealloc__(self):
        if self.running:
            # Its threads go on, so its memory stays.
            warnings.warn("a Mux was not stopped", ResourceWarning)
        elif self.mux != NULL:
            c_mux.mux_free(self.mux)

    def start(self, bytes init_request=b""):
        """Start the threads.  `init_request` is the recorded INIT of a connection that goes on.

        pyfuse3 is asked it then, so that it is set up; its reply goes nowhere.
        """
        cdef int result
        if self.running:
            raise RuntimeError("the Mux is running")
        self.running = True
        result = c_mux.mux_start(self.mux, init_request, len(init_request))
        if result:
            self.stop(1.0)
            raise OSError(result, f"start: {os.strerror(result)}")

    @property
    def init_request(self):
        """The kernel's INIT request, to go on with the connection in another process; or None."""
        return self.mux.init[:self.mux.init_length] if self.mux.init_length else None

    def fileno(self):
        """A descriptor that is readable once the connection is over (see `ended`).

        Then call pyfuse3.terminate(): libfuse cannot be told by its socket, and would raise EIO.
        """
        return self.mux.ended_fd

    @property
    def ended(self):
        """0, or why the connection is over.

        ENODEV when it was unmounted or aborted; another errno where the device cannot be read, and the
        Mux has given up: then a successor has to go on.
        """
        return self.mux.ended

    def register(self, uint64_t fh, Image image not None, uint64_t offset, uint64_t length, *,
                 bint readable, bint writable, uint32_t open_flags=0, bint ignore_sync=False,
                 bint dirty=False, bint direct=False, uint64_t meter=0):
        """Serve the file `fh`, before OPEN is answered with it: `length` bytes of the image from `offset`.

        `open_flags` (FOPEN_*) are added to the reply.  With `ignore_sync` FSYNC, FLUSH and O_DSYNC do
        nothing.  `dirty`: the next FLUSH has something to flush.  `direct`: the kernel has been told to
        keep no pages of it.  `meter` is the image's number in the meters.  A number may be used again only after unregister() or the kernel's RELEASE, which ends
        the registration when its last request is complete, and is passed on to pyfuse3 then.  A WRITE
        that leaves the file, or that the file does not allow, goes to pyfuse3.
        EEXIST, EBADF or EBUSY if the image is closed or being closed.
        """
        cdef c_mux.registration_options options
        cdef int result
        if image.image == NULL:
            raise OSError(EBADF, f"{image.spec} is closed")
        if offset > INT64_MAX or length > INT64_MAX - offset:
            raise ValueError("offset and length leave the range of a file offset")
        if writable and image.read_only:
            raise ValueError(f"{image.spec} is read-only")
        options.fh, options.offset, options.length = fh, offset, length
        options.readable, options.writable = readable, writable
        options.ignore_sync, options.open_flags = ignore_sync, open_flags
        options.dirty, options.direct = dirty, direct
        options.meters = c_mux.meters_of(&self.mux.meters, meter)
        result = c_mux.mux_register(self.mux, image.image, &options)
        check(-result, f"fh {fh} of {image.spec}")

    def unregister(self, uint64_t fh):
        """Pass what comes for `fh` on to pyfuse3; requests under way go on.  False if it is unknown."""
        cdef c_mux.registration *registration = c_mux.table_remove(&self.mux.table, fh)
        if registration != NULL:
            with nogil:
                c_mux.registration_unref(registration)
        return registration != NULL

    def set_length(self, uint64_t fh, uint64_t length):
        """The file's new length in bytes; ENOENT if `fh` is unknown."""
        check(-c_mux.mux_set_length(self.mux, fh, length), f"fh {fh}: length {length}")

    def reply(self, bytes message not None):
        """Answer a request that came by extra_socket.  ENOENT if nobody wants the answer any more."""
        cdef const char *data = message
        cdef size_t length = len(message)
        cdef int result
        with nogil:
            result = c_mux.mux_reply_extra(self.mux, data, length)
        check(-result, "reply")

    def take_request(self, uint32_t opcode, uint64_t inode, uint32_t pid):
        """The number of the request that thread `pid` waits for, of those that must not run twice: OPEN,
        OPENDIR, CREATE, LINK, UNLINK, RENAME, MKDIR and RMDIR on `inode`, and of those that change
        nothing; 0 if there is none, or once it was taken.  With bit 63 (FUSE_UNIQUE_RESEND) where the
        kernel has sent it before.  Of READDIRPLUS it goes by the file handle and 0, of STATFS by 0 and
        the thread.
        """
        return c_mux.callers_take(&self.mux.callers, opcode, inode, pid)

    def take_over(self, uint64_t unique):
        """Take over the answering of a request that came as `extra_requests.Abandoned`: True, and
        interrupt() has to be called; or False: it has been answered.  What whoever has it answers, the
        kernel never hears of, and what that has opened is closed.
        """
        return c_mux.interrupt_take(self.mux, unique)

    def interrupt(self, uint64_t unique):
        """Answer a request that was taken over: EINTR."""
        with nogil:
            c_mux.interrupt_answer(self.mux, unique)

    def is_taken_over(self, uint64_t unique):
        """Whether whoever has a request works for nobody."""
        return c_mux.pending_was_answered(&self.mux.pending, unique)

    def acquit(self):
        """Forget what was sent again: no server has died of it.  On any thread."""
        c_mux.ledger_clear(&self.mux.ledger)

    def trace_fileno(self):
        """A descriptor that is readable while take_trace() has something, with `trace`; or -1."""
        return self.mux.trace.event_fd

    def take_trace(self):
        """What the Mux has answered by itself since the last call, with `trace`, and how much of that was
        lost: ([(opcode, fh, offset in the file, length, errno, seconds)...], count).
        """
        cdef c_mux.trace_record record
        found = []
        # Those that come meanwhile are for the next call.
        while len(found) < TRACE_MOST and c_mux.trace_take(&self.mux.trace, &record):
            found.append((record.opcode, record.fh, record.offset, record.length, record.error,
                          record.duration_ns / 1e9))
        return found, c_mux.trace_take_lost(&self.mux.trace)

    def waiting(self, double seconds):
        """How long, in seconds, the oldest request in librbd waits (0.0 without one), and the files of
        those that have waited for `seconds`: (oldest, {fh: how long its oldest of them waits}).
        """
        cdef c_mux.waiting found[WAITING_MOST]
        cdef uint64_t now = c_mux.now_ns(), oldest, before = now - min(now, <uint64_t>(seconds * 1e9))
        cdef size_t count
        with nogil:
            count = c_mux.request_list_waiting(self.mux, before, found, WAITING_MOST, &oldest)
        files = {}
        for index in range(count):
            age = (now - found[index].begun_ns) / 1e9
            files[found[index].fh] = max(age, files.get(found[index].fh, 0.0))
        return (0.0 if oldest > now else (now - oldest) / 1e9), files

    def stats(self):
        """Counters by name: src/mux.h says what they count.  `active`: in librbd or parked;
        `unreplied`: in pyfuse3 or Python; `registered`: files."""
        cdef c_mux.mux_stats *stats = &self.mux.stats
        cdef c_mux.mux_gauges gauges = c_mux.mux_read_gauges(self.mux)
        return {
            "reads": stats.reads,
            "writes": stats.writes,
            "flushes": stats.flushes,
            "bytes_read": stats.bytes_read,
            "bytes_written": stats.bytes_written,
            "errors": stats.errors,
            "passed_on": stats.passed_on,
            "extra": stats.extra,
            "malformed": stats.malformed,
            "undelivered": stats.undelivered,
            "unwanted": stats.unwanted,
            "reply_errors": stats.reply_errors,
            "interrupted": stats.interrupted,
            "resent": stats.resent,
            "refused": stats.refused,
            "read_errors": stats.read_errors,
            "active": gauges.active,
            "unreplied": gauges.unreplied,
            "registered": gauges.registered,
        }

    def drain(self, double timeout):
        """Stop reading from the kernel, and wait until nobody has a request: librbd, pyfuse3, Python.

        For a connection that another process goes on with.  ETIMEDOUT after `timeout` s.
        """
        self._wait(timeout, True)

    def stop(self, double timeout):
        """Stop reading, unregister all files, wait until librbd is done, end the threads.

        Call it after pyfuse3.main() has ended, because the sockets are shut down.  ETIMEDOUT after
        `timeout` s: requests are still under way, the images cannot be closed, the memory stays;
        stop() may be called again.
        """
        self._wait(timeout, False)

    cdef int _wait(self, double timeout, bint drain) except -1:
        cdef timespec deadline = c_mux.deadline_in(timeout)
        cdef int result = 0
        cdef c_mux.mux_gauges gauges
        with nogil:
            if drain:
                result = c_mux.mux_drain(self.mux, True, &deadline)
            elif self.running:
                result = c_mux.mux_stop(self.mux, &deadline)
        if not drain:
            self.running = result != 0
        gauges = c_mux.mux_read_gauges(self.mux)
        return check(-result, f"{gauges.active} requests in librbd, {gauges.unreplied} elsewhere")
