# Requests with a Python callback: what the data path does not serve itself.


cdef class Completion:
    """A request under way in librbd, as rbd.Completion: given to its callback."""

    cdef c_mux.open_image *image
    cdef c_rbd.rbd_completion_t handle
    cdef object callback
    cdef object data  # what librbd reads from or writes to
    cdef bint returns_data
    cdef ssize_t result

    def get_return_value(self):
        """0 or more, or a negative errno.  Once the callback was called."""
        return self.result


cdef void on_python_completion(c_rbd.rbd_completion_t handle, void *arg) noexcept with gil:
    """On a thread of librbd.  What the callback raises is reported as unraisable."""
    cdef Completion completion = <Completion>arg
    Py_DECREF(completion)
    completion.result = c_rbd.rbd_aio_get_return_value(handle)
    c_rbd.rbd_aio_release(handle)
    # Before the callback, so that an image can be closed after it.
    c_mux.open_image_end_call(completion.image)
    callback, data = completion.callback, completion.data
    completion.callback = completion.data = None
    if not completion.returns_data:
        callback(completion)
    elif completion.result < 0:
        callback(completion, None)
    elif completion.result < len(data):
        callback(completion, data[:completion.result])
    else:
        callback(completion, data)


cdef int no_progress(uint64_t offset, uint64_t total, void *arg) noexcept nogil:
    return 0
