# The life of an open image or snapshot. image_metadata.pxi and image_io.pxi add what can be done with it.

LOCK_MODE_EXCLUSIVE = c_rbd.RBD_LOCK_MODE_EXCLUSIVE
LOCK_MODE_SHARED = c_rbd.RBD_LOCK_MODE_SHARED

ctypedef int (*timestamp_getter)(c_rbd.rbd_image_t, timespec *) noexcept nogil
ctypedef int (*value_getter)(c_rbd.rbd_image_t, uint64_t *) noexcept nogil
ctypedef int (*command)(c_rbd.rbd_image_t) noexcept nogil


cdef class _OpenImage:
    """Opening and closing, and the count of calls under way."""

    cdef c_mux.image *image
    cdef readonly Ioctx ioctx
    cdef readonly str spec
    cdef readonly bint read_only
    cdef uint64_t watch
    cdef bint watched

    def __cinit__(self):
        self.image = NULL

    def __init__(self, Ioctx ioctx not None, name=None, snapshot=None, read_only=False,
                 image_id=None):
        cdef c_rbd.rbd_image_t rbd
        if (name is None) == (image_id is None):
            raise ValueError("an image is opened by its name or by its id")
        if self.image != NULL:
            raise RuntimeError("an Image is opened once")
        if ioctx.ioctx == NULL:
            raise OSError(EBADF, "the ioctx is closed")
        self.read_only = read_only or snapshot is not None
        self.spec = ioctx.spec + (f"id {image_id}" if name is None else os.fsdecode(name))
        if snapshot is not None:
            self.spec += f"@{snapshot if isinstance(snapshot, int) else os.fsdecode(snapshot)}"
        self.ioctx = ioctx
        rbd = self._open(name, image_id, snapshot)
        self.image = c_mux.image_new(rbd)
        if self.image == NULL:
            with nogil:
                c_rbd.rbd_close(rbd)
            raise MemoryError
        ioctx.images += 1

    cdef c_rbd.rbd_image_t _open(self, name, image_id, snapshot) except NULL:
        cdef bint by_id = name is None
        cdef bytes which = encoded(image_id if by_id else name, "image name")
        cdef bint snap_by_id = isinstance(snapshot, int)
        cdef bytes snap = b"" if snapshot is None or snap_by_id else encoded(snapshot, "snapshot")
        cdef uint64_t snap_id = snapshot if snap_by_id else 0
        cdef const char *image_text = which
        cdef const char *snap_text = NULL
        cdef c_rados.rados_ioctx_t ioctx = self.ioctx.ioctx
        cdef c_rbd.rbd_image_t rbd = NULL
        cdef int result
        cdef bint read_only = self.read_only
        if snapshot is not None and not snap_by_id:
            snap_text = snap
        with nogil:
            if by_id and read_only:
                result = c_rbd.rbd_open_by_id_read_only(ioctx, image_text, &rbd, snap_text)
            elif by_id:
                result = c_rbd.rbd_open_by_id(ioctx, image_text, &rbd, snap_text)
            elif read_only:
                result = c_rbd.rbd_open_read_only(ioctx, image_text, &rbd, snap_text)
            else:
                result = c_rbd.rbd_open(ioctx, image_text, &rbd, snap_text)
        check(result, f"open {self.spec}")
        if snap_by_id:
            with nogil:
                result = c_rbd.rbd_snap_set_by_id(rbd, snap_id)
                if result < 0:
                    c_rbd.rbd_close(rbd)
            check(result, f"open {self.spec}")
        return rbd

    def __dealloc__(self):
        if self.image != NULL:
            warnings.warn("an Image was not closed", ResourceWarning)
            c_mux.image_unref(self.image)

    @property
    def failed(self):
        """0, or the errno that every request is answered with: fenced, timed out, or Mux.fail()."""
        return self.image.failed if self.image != NULL else 0

    @property
    def written(self):
        """How many writes of the kernel are complete: counted before they are answered."""
        return self.image.written if self.image != NULL else 0

    # Every call of librbd is counted, so that close() waits for it.

    cdef c_rbd.rbd_image_t _begin(self) except NULL:
        if self.image == NULL or not c_mux.image_begin_foreign(self.image):
            raise OSError(EBADF, f"{self.spec} is closed")
        return self.image.rbd

    cdef int _end(self, int64_t result, str action) except -1:
        c_mux.image_end_foreign(self.image)
        if result < 0:
            raise error_of(result, f"{action} {self.spec}")
        return 0

    cdef uint64_t _value(self, value_getter get, str action) except? 0:
        cdef c_rbd.rbd_image_t rbd = self._begin()
        cdef uint64_t value = 0
        cdef int result
        with nogil:
            result = get(rbd, &value)
        self._end(result, action)
        return value

    cdef object _timestamp(self, timestamp_getter get, str action):
        cdef c_rbd.rbd_image_t rbd = self._begin()
        cdef timespec value
        cdef int result
        with nogil:
            result = get(rbd, &value)
        self._end(result, action)
        return moment(&value)

    cdef int _run(self, command run, str action) except -1:
        cdef c_rbd.rbd_image_t rbd = self._begin()
        cdef int result
        with nogil:
            result = run(rbd)
        return self._end(result, action)

    def close(self, timeout=None):
        """Wait for the requests under way, and close.  `timeout` (s) bounds the waiting, not librbd.

        EBUSY if handles are registered, ETIMEDOUT if requests are still under way; the image goes on
        then.  Closing blocks while the cluster is away.
        """
        cdef timespec deadline = c_mux.deadline_in(86400 if timeout is None else timeout)
        cdef c_mux.image *image = self.image
        cdef c_rbd.rbd_image_t rbd
        cdef int result
        if image == NULL:
            return
        with nogil:
            result = c_mux.image_quiesce(image, &deadline)
        check(-result, f"close {self.spec}")
        rbd, self.image = image.rbd, NULL
        with nogil:
            if self.watched:
                c_rbd.rbd_update_unwatch(rbd, self.watch)
            result = c_rbd.rbd_close(rbd)
        c_mux.image_unref(image)
        self.ioctx.images -= 1
        check(result, f"close {self.spec}")

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()
