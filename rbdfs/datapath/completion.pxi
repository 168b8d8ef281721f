# Requests with a Python callback: what the data path does not serve itself.


cdef class Completion:
    """A request under way in librbd, as rbd.Completion: given to its callback."""

    cdef c_mux.python_request request
    cdef object callback
    cdef object data  # what librbd reads from or writes to
    cdef object image  # whose client has the list of what is complete
    cdef bint returns_data

    def get_return_value(self):
        """0 or more, or a negative errno.  Once the callback was called."""
        return self.request.result

    cdef _call_back(self):
        callback, data = self.callback, self.data
        self.callback = self.data = self.image = None
        if not self.returns_data:
            callback(self)
        elif self.request.result < 0:
            callback(self, None)
        elif self.request.result < len(data):
            callback(self, data[:self.request.result])
        else:
            callback(self, data)


cdef void call_back(void *owner) noexcept:
    """Drop the reference that librbd had.  What the callback raises is reported as unraisable."""
    completion = <Completion>owner
    Py_DECREF(completion)
    completion._call_back()


cdef int no_progress(uint64_t offset, uint64_t total, void *arg) noexcept nogil:
    return 0
