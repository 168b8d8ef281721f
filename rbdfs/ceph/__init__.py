"""Ceph's clients and open images: connections, the aio bridge, and errors by name.

Owns every call of librados and librbd that is not a plain read of metadata, how it is awaited or
put into a thread, and how it fails. It must not know what files are open on an image, nor what
anything is called below the mount point. Each pool has a limiter of its own for what blocks, so
that one that does not answer keeps its own threads only. It has no locks.
"""
