# An open image or snapshot: its life, what is asked about it, and its requests by Python.

LOCK_MODE_EXCLUSIVE = c_rbd.RBD_LOCK_MODE_EXCLUSIVE

ctypedef int (*value_getter)(c_rbd.rbd_image_t, uint64_t *) noexcept nogil


cdef class Image:
    """An image, by its name or its id, or a snapshot of it by name (str, bytes) or id (int).

    A snapshot is read-only, and so is an image with `read_only`, which needs no right to write and
    leaves no watch.  Close it explicitly: an Image that is collected open stays open, with a warning,
    because closing one may block for ever.

    It has the methods of `rbd.Image` that rbdfs uses.  Its C half is a `struct open_image`.
    """

    cdef c_mux.open_image *image
    cdef readonly Ioctx ioctx
    cdef readonly str spec
    cdef readonly bint read_only
    cdef uint64_t all_writes  # that were complete when it was closed

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
        self.image = c_mux.open_image_new(rbd)
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
            c_mux.open_image_unref(self.image)

    @property
    def failed(self):
        """0, or the errno that every request is answered with: the image was fenced or timed out."""
        return self.image.failed if self.image != NULL else 0

    @property
    def completed_writes(self):
        """How many writes of the kernel are complete: counted before they are answered."""
        return self.image.completed_writes if self.image != NULL else self.all_writes

    # Every call of librbd is counted, so that close() waits for it.

    cdef c_mux.open_image *_begin(self) except NULL:
        """Count a call: EBADF if the image is closed.  Each one ends with open_image_end_call()."""
        if self.image == NULL or not c_mux.open_image_begin_call(self.image):
            raise OSError(EBADF, f"{self.spec} is closed")
        return self.image

    cdef uint64_t _value(self, value_getter get, str action) except? 0:
        cdef c_mux.open_image *image = self._begin()
        cdef uint64_t value = 0
        cdef int result
        with nogil:
            result = get(image.rbd, &value)
            c_mux.open_image_end_call(image)
        check(result, f"{action} {self.spec}")
        return value

    def size(self):
        """The size in bytes."""
        return self._value(c_rbd.rbd_get_size, "size of")

    def features(self):
        """The bit mask of its features."""
        return self._value(c_rbd.rbd_get_features, "features of")

    def flags(self):
        """The bit mask of its flags: an invalid object map, an invalid fast-diff."""
        return self._value(c_rbd.rbd_get_flags, "flags of")

    def lock_acquire(self, mode):
        """Take the exclusive lock, and with LOCK_MODE_EXCLUSIVE keep it until close().

        EROFS if another client holds it in exclusive mode, EBUSY or EAGAIN if it is not to be had.
        """
        cdef c_rbd.rbd_lock_mode_t lock_mode = mode
        cdef c_mux.open_image *image = self._begin()
        cdef int result
        with nogil:
            result = c_rbd.rbd_lock_acquire(image.rbd, lock_mode)
            c_mux.open_image_end_call(image)
        check(result, f"lock {self.spec}")

    def is_exclusive_lock_owner(self):
        cdef c_mux.open_image *image = self._begin()
        cdef int owner = 0, result
        with nogil:
            result = c_rbd.rbd_is_exclusive_lock_owner(image.rbd, &owner)
            c_mux.open_image_end_call(image)
        check(result, f"lock owner of {self.spec}")
        return owner == 1

    def watchers_list(self):
        """Iterate over {addr, id, cookie}: the clients that have the image open for writing."""
        cdef c_mux.open_image *image = self._begin()
        cdef c_rbd.rbd_image_watcher_t *watchers = NULL
        cdef size_t count = 16
        cdef int result = -ERANGE
        with nogil:
            # librbd says how many there are when there are more; the next call may see yet more.
            while result == -ERANGE:
                free(watchers)
                watchers = <c_rbd.rbd_image_watcher_t *>calloc(
                    count, sizeof(c_rbd.rbd_image_watcher_t))
                result = -ENOMEM
                if watchers != NULL:
                    result = c_rbd.rbd_watchers_list(image.rbd, watchers, &count)
            c_mux.open_image_end_call(image)
        try:
            check(result, f"watchers of {self.spec}")
            found = [
                {
                    "addr": decoded(watchers[i].addr),
                    "id": watchers[i].id,
                    "cookie": watchers[i].cookie,
                }
                for i in range(count)
            ]
            c_rbd.rbd_watchers_list_cleanup(watchers, count)
            return iter(found)
        finally:
            free(watchers)

    def list_lockers(self):
        """Whoever had locked the image when it was opened: {lockers}, of (client, cookie, address)."""
        cdef c_mux.open_image *image = self._begin()
        cdef char tag[4096]
        cdef char *text[3]
        cdef size_t length[3]
        cdef size_t tag_length = sizeof(tag)
        cdef int exclusive = 0
        cdef ssize_t result = -ENOMEM
        cdef char *buffer
        for i in range(3):
            length[i] = 1 << 16
        buffer = <char *>calloc(3, 1 << 16)
        if buffer != NULL:
            for i in range(3):
                text[i] = buffer + (<size_t>i << 16)
            with nogil:
                result = c_rbd.rbd_list_lockers(
                    image.rbd, &exclusive, tag, &tag_length, text[0], &length[0], text[1],
                    &length[1], text[2], &length[2])
        c_mux.open_image_end_call(image)
        try:
            check(<int>result, f"lockers of {self.spec}")
            columns = [text[i][:length[i]].split(b"\0")[:result] for i in range(3)]
            return {"lockers": [tuple(map(os.fsdecode, row)) for row in zip(*columns)]}
        finally:
            free(buffer)

    def config_list(self):
        """Iterate over {name, value}: the settings that hold for the image, whoever has made them."""
        cdef c_mux.open_image *image = self._begin()
        cdef c_rbd.rbd_config_option_t *options = NULL
        cdef int count = 256
        cdef int result = -ERANGE
        with nogil:
            while result == -ERANGE:
                free(options)
                options = <c_rbd.rbd_config_option_t *>calloc(
                    count, sizeof(c_rbd.rbd_config_option_t))
                result = -ENOMEM
                if options != NULL:
                    result = c_rbd.rbd_config_image_list(image.rbd, options, &count)
            c_mux.open_image_end_call(image)
        try:
            check(result, f"settings of {self.spec}")
            found = [
                {"name": decoded(options[i].name), "value": decoded(options[i].value)}
                for i in range(count)
            ]
            c_rbd.rbd_config_image_list_cleanup(options, count)
            return iter(found)
        finally:
            free(options)

    def allocated_extents(self, bint whole_object=True, bint include_parent=True):
        """What was ever written, from one diff of the whole image: bytes of (offset, length, exists).

        Three native 64-bit numbers an extent (`memoryview(...).cast("Q")`), neighbours joined;
        `exists` 0 is an extent that was zeroed.  `whole_object` reports whole objects, and needs no
        look at each object where the image has a valid fast-diff.
        """
        cdef c_mux.open_image *image = self._begin()
        cdef c_mux.extents found
        cdef uint64_t size = 0
        cdef int result
        found.items, found.count, found.capacity = NULL, 0, 0
        with nogil:
            result = c_rbd.rbd_get_size(image.rbd, &size)
            if result >= 0 and size:
                result = c_rbd.rbd_diff_iterate2(image.rbd, NULL, 0, size, include_parent,
                                                 whole_object, c_mux.extents_add, &found)
            c_mux.open_image_end_call(image)
        try:
            check(result, f"extents of {self.spec}")
            return (<char *>found.items)[:found.count * sizeof(c_mux.extent)]
        finally:
            free(found.items)

    def resize(self, uint64_t size, bint allow_shrink=True):
        """Give the image `size` bytes; what lies beyond is gone."""
        cdef c_mux.open_image *image = self._begin()
        cdef int result
        with nogil:
            result = c_rbd.rbd_resize2(image.rbd, size, allow_shrink, no_progress, NULL)
            c_mux.open_image_end_call(image)
        check(result, f"resize to {size} {self.spec}")

    def metadata_set(self, key, value):
        """Have the image say `value` under `key`."""
        cdef bytes key_bytes = encoded(key, "a key")
        cdef bytes value_bytes = encoded(value, "a value")
        cdef const char *key_text = key_bytes
        cdef const char *value_text = value_bytes
        cdef c_mux.open_image *image = self._begin()
        cdef int result
        with nogil:
            result = c_rbd.rbd_metadata_set(image.rbd, key_text, value_text)
            c_mux.open_image_end_call(image)
        check(result, f"set {key} of {self.spec}")

    def metadata_remove(self, key):
        """Have the image say nothing under `key`; ENOENT if it does not."""
        cdef bytes key_bytes = encoded(key, "a key")
        cdef const char *key_text = key_bytes
        cdef c_mux.open_image *image = self._begin()
        cdef int result
        with nogil:
            result = c_rbd.rbd_metadata_remove(image.rbd, key_text)
            c_mux.open_image_end_call(image)
        check(result, f"remove {key} of {self.spec}")

    def aio_read(self, uint64_t offset, size_t length, oncomplete):
        """Call oncomplete(completion, data or None), by Client.run_callbacks()."""
        data = PyBytes_FromStringAndSize(NULL, length)
        cdef char *buffer = PyBytes_AS_STRING(data)
        cdef Completion completion = self._begin_aio(oncomplete, data)
        cdef int result
        completion.returns_data = True
        with nogil:
            result = c_rbd.rbd_aio_read(
                completion.request.image.rbd, offset, length, buffer, completion.request.handle)
        return self._submitted(completion, result, f"read {offset}~{length} of")

    def aio_write(self, bytes data not None, uint64_t offset, oncomplete):
        """Call oncomplete(completion), by Client.run_callbacks(), as the next two."""
        cdef const char *buffer = PyBytes_AS_STRING(data)
        cdef size_t length = PyBytes_GET_SIZE(data)
        cdef Completion completion = self._begin_aio(oncomplete, data)
        cdef int result
        with nogil:
            result = c_rbd.rbd_aio_write(
                completion.request.image.rbd, offset, length, buffer, completion.request.handle)
        return self._submitted(completion, result, f"write {offset}~{length} of")

    def aio_flush(self, oncomplete):
        cdef Completion completion = self._begin_aio(oncomplete, None)
        cdef int result
        with nogil:
            result = c_rbd.rbd_aio_flush(completion.request.image.rbd, completion.request.handle)
        return self._submitted(completion, result, "flush")

    def aio_write_zeroes(self, uint64_t offset, size_t length, oncomplete, int zero_flags=0):
        cdef Completion completion = self._begin_aio(oncomplete, None)
        cdef int result
        with nogil:
            result = c_rbd.rbd_aio_write_zeroes(
                completion.request.image.rbd, offset, length, completion.request.handle, zero_flags, 0)
        return self._submitted(completion, result, f"zero {offset}~{length} of")

    cdef Completion _begin_aio(self, oncomplete, data):
        """Count a call, and make its completion, with a reference for librbd."""
        cdef c_mux.open_image *image = self._begin()
        cdef Completion completion = Completion.__new__(Completion)
        cdef c_mux.python_request *request = &completion.request
        # A failed image answers everybody so, not only the kernel.
        cdef int result = -image.failed
        if result == 0:
            result = c_rbd.rbd_aio_create_completion(
                request, c_mux.on_python_completion, &request.handle)
        if result < 0:
            c_mux.open_image_end_call(image)
            raise error_of(result, f"request of {self.spec}")
        request.image, request.completions = image, &self.ioctx.client.completions
        request.owner = <void *>completion
        completion.callback, completion.data, completion.image = oncomplete, data, self
        Py_INCREF(completion)
        return completion

    cdef Completion _submitted(self, Completion completion, int result, str action):
        if result < 0:
            c_rbd.rbd_aio_release(completion.request.handle)
            Py_DECREF(completion)
            c_mux.open_image_end_call(completion.request.image)
            raise error_of(result, f"{action} {self.spec}")
        return completion

    def close(self, timeout=None):
        """Wait for the requests under way, and close.  `timeout` (s) bounds the waiting, not librbd.

        EBUSY if files are registered, ETIMEDOUT if requests are still under way; the image goes on
        then.  Closing blocks while the cluster is away.
        """
        cdef timespec deadline = c_mux.deadline_in(86400 if timeout is None else timeout)
        cdef c_mux.open_image *image = self.image
        cdef int result
        if image == NULL:
            return
        with nogil:
            result = c_mux.open_image_quiesce(image, &deadline)
        check(-result, f"close {self.spec}")
        self.all_writes = image.completed_writes
        self.image = NULL
        with nogil:
            result = c_rbd.rbd_close(image.rbd)
            c_mux.open_image_unref(image)
        self.ioctx.images -= 1
        check(result, f"close {self.spec}")

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()
