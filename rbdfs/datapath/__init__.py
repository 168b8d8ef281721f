"""The native data path: READ, WRITE, FSYNC and FLUSH of open images, without Python on the way.

One extension module, `native`; importing it raises ImportError where it was not built. It owns the
reading of /dev/fuse and every answer to the kernel, the images that it has open in librbd, the
requests that librbd carries out for the kernel, their counting in memory that it is given (meters),
and with -d a record of each that it has answered by itself (trace). `native.pyx` includes the
binding of librados and librbd (`client.pxi`, `image.pxi`, `completion.pxi`) and of the multiplexer
(`mux.pxi`); `src/` is the C below them, whose includes make no circle. Begin with `src/mux.h`: the
threads, the locks; then `src/request.h`: the life of a request.

It must not know names, directories, the policy of opening, or what an errno means to a user: it is
told by Mux.register() which number is which part of which image, and passes on whatever it has no
answer to. It imports nothing of rbdfs.

Locks, all in C and held for a few instructions: a table's is taken before an image's, and an
image's before an outlet's. Those of the pool, the pending, the callers, the ledger, the trace and
the mux come last; no other is taken while one of them is held. Meters are counted atomically,
without a lock. The GIL is never taken with one of them held.
"""
