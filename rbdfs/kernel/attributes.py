"""Extended attributes, asked for once.

os.getxattr() asks with room for 128 bytes first, and a server would look everything up twice.
"""

from __future__ import annotations

import ctypes
import os


def read_attribute(path: str, name: bytes, most: int) -> bytes:
    """Return the value of attribute *name*, of at most *most* bytes; raise OSError."""
    buffer = ctypes.create_string_buffer(most)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.getxattr.restype = ctypes.c_ssize_t
    libc.getxattr.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t)
    length = libc.getxattr(os.fsencode(path), name, buffer, most)
    if length < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path)
    return buffer.raw[:length]
