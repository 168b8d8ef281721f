# cython: language_level=3, binding=True, embedsignature=False
# distutils: language = c
"""librbd and the multiplexer between the kernel, librbd and pyfuse3, without Python on the way.

`Client`, `Ioctx` and `Image` are a thin binding of librados and librbd.  Their methods block, release
the GIL, and raise OSError with librbd's errno.  Method names and results are those of Debian's
`rados` and `rbd` modules, so that code can use either; there is what rbdfs uses, and no more.  `Mux`
serves the requests of image files; `src/mux.h` has its thread model.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport EBADF, EINVAL, EIO, ENOENT, ENOMEM, ERANGE, errno
from libc.stdint cimport INT64_MAX, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from posix.time cimport timespec
from posix.unistd cimport _SC_PAGESIZE, sysconf

from rbdfs.datapath cimport c_mux, c_rados, c_rbd

import os
import warnings

include "errors.pxi"
include "completion.pxi"
include "client.pxi"
include "image.pxi"
include "mux.pxi"
