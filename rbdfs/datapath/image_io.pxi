# Changing an image, and reading and writing it with Python's help.


cdef class Image(_ImageMetadata):
    """An image, by its name or its id, or a snapshot of it by name (str, bytes) or id (int).

    A snapshot is read-only, and so is an image with `read_only`, which needs no right to write and
    leaves no watch.  Close it explicitly: an Image that is collected open stays open, with a warning,
    because closing one may block for ever.
    """

    def resize(self, uint64_t size, bint allow_shrink=True):
        cdef c_rbd.rbd_image_t rbd = self._begin()
        cdef int result
        with nogil:
            result = c_rbd.rbd_resize2(rbd, size, allow_shrink, no_progress, NULL)
        self._end(result, f"resize to {size}")

    def flush(self):
        self._run(c_rbd.rbd_flush, "flush")

    def invalidate_cache(self):
        self._run(c_rbd.rbd_invalidate_cache, "invalidate cache of")

    def aio_read(self, uint64_t offset, size_t length, oncomplete):
        """Call oncomplete(completion, data or None) on a thread of librbd."""
        data = PyBytes_FromStringAndSize(NULL, length)
        cdef char *buffer = PyBytes_AS_STRING(data)
        cdef c_rbd.rbd_image_t rbd = self._begin_aio()
        cdef c_rbd.rbd_completion_t handle
        cdef Completion completion = self._completion(&handle, oncomplete, data)
        cdef int result
        completion.returns_data = True
        with nogil:
            result = c_rbd.rbd_aio_read(rbd, offset, length, buffer, handle)
        return self._submitted(completion, handle, result, f"read {offset}~{length} of")

    def aio_write(self, bytes data not None, uint64_t offset, oncomplete):
        """Call oncomplete(completion) on a thread of librbd, as the next two."""
        cdef const char *buffer = PyBytes_AS_STRING(data)
        cdef size_t length = PyBytes_GET_SIZE(data)
        cdef c_rbd.rbd_image_t rbd = self._begin_aio()
        cdef c_rbd.rbd_completion_t handle
        cdef Completion completion = self._completion(&handle, oncomplete, data)
        cdef int result
        with nogil:
            result = c_rbd.rbd_aio_write(rbd, offset, length, buffer, handle)
        return self._submitted(completion, handle, result, f"write {offset}~{length} of")

    def aio_flush(self, oncomplete):
        cdef c_rbd.rbd_image_t rbd = self._begin_aio()
        cdef c_rbd.rbd_completion_t handle
        cdef Completion completion = self._completion(&handle, oncomplete, None)
        cdef int result
        with nogil:
            result = c_rbd.rbd_aio_flush(rbd, handle)
        return self._submitted(completion, handle, result, "flush")

    def aio_write_zeroes(self, uint64_t offset, size_t length, oncomplete, int zero_flags=0):
        cdef c_rbd.rbd_image_t rbd = self._begin_aio()
        cdef c_rbd.rbd_completion_t handle
        cdef Completion completion = self._completion(&handle, oncomplete, None)
        cdef int result
        with nogil:
            result = c_rbd.rbd_aio_write_zeroes(rbd, offset, length, handle, zero_flags, 0)
        return self._submitted(completion, handle, result, f"zero {offset}~{length} of")

    cdef c_rbd.rbd_image_t _begin_aio(self) except NULL:
        cdef c_rbd.rbd_image_t rbd = self._begin()
        # A failed image answers everybody so, not only the kernel.
        if self.image.failed:
            self._end(-self.image.failed, "failed:")
        return rbd

    cdef Completion _completion(self, c_rbd.rbd_completion_t *handle, oncomplete, data):
        """With a reference for the callback, which owns it once the request was submitted."""
        cdef Completion completion = Completion.__new__(Completion)
        cdef int result = c_rbd.rbd_aio_create_completion(
            <void *>completion, completed, handle)
        if result < 0:
            self._end(result, "request of")
        completion.owner, completion.callback, completion.data = self, oncomplete, data
        completion.returns_data = False
        Py_INCREF(completion)
        return completion

    cdef Completion _submitted(self, Completion completion, c_rbd.rbd_completion_t handle,
                               int result, str action):
        if result < 0:
            c_rbd.rbd_aio_release(handle)
            Py_DECREF(completion)
            self._end(result, action)
        return completion
