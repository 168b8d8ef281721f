"""/dev/fuse and the mount point: mounting, unmounting, and requests as bytes.

Owns what is asked of mount(2), fusermount3, mountinfo and the FUSE ABI (linux/fuse.h) where Python
does it. It must not know what is served, or whether there is a cluster. It has no locks.
"""
