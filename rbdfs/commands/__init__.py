"""What each word but mount does: a module of its name, whose run() returns the exit code.

Owns how a mount that is there is asked, and how the answer is told to a person or a program. It
must not know Ceph nor how a mount is served: it asks the keeper, or the mount itself as any other
program would, so that the caller needs neither a key nor librbd. A mount imports none of it; a
command imports the module of its word alone. It has no locks.
"""
