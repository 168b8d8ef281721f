# Errors of librados and librbd as OSError, and text in both directions.


cdef object error_of(int64_t result, str action):
    """The OSError of a negative return value."""
    # Errno values are small; what is not one is still an error.
    code = <int>-result if -4096 < result < 0 else EIO
    return OSError(code, f"{action}: {os.strerror(code)}")


cdef int check(int64_t result, str action) except -1:
    """Raise the OSError of a return value that is negative."""
    if result < 0:
        raise error_of(result, action)
    return 0


cdef bytes encoded(object text, str what):
    """What a C function takes.  Names may have bytes that are not UTF-8, but no NUL: it ends a name."""
    data = bytes(text) if isinstance(text, (bytes, bytearray)) else os.fsencode(text)
    if 0 in data:
        raise OSError(EINVAL, f"NUL in {what}: {text!r}")
    return data


cdef str decoded(const char *text):
    return (<bytes>text).decode("utf-8", "surrogateescape")
