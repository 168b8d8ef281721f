"""A process that serves one mount: it connects, takes over, runs and ends.

Owns the order in which a mount is put together and taken apart (lifecycle), serving and how it ends
(run), what comes between the death of one server and the first answer of the next (takeover), and
the link to the keeper. It
must not know how a request is answered: that is fuse/ and what lies below. It has no locks.
"""
