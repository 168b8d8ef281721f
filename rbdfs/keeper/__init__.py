"""The process that outlives servers: it has the kernel's connection, and what one leaves the next.

Owns the mount from its beginning to its end, the child process that serves it, the estate that is
handed over, the socket for commands, and for the sake of metrics the memory that servers count in
and the listener where they are scraped. It must not know Ceph, nor anything that is likely to fail:
there is so little of it that it should live as long as the mount. It is one thread, a loop over
descriptors, beside the one that writes the log, and has no locks.
"""
