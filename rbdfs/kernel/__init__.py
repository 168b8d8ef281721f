"""/dev/fuse and the mount point: mounting, unmounting, and requests as bytes.

Owns what is asked of mount(2), fusermount3, mountinfo and the FUSE ABI (linux/fuse.h) where Python
does it, and which mount is ours: its device number and its unique id, never its path. It must not
know what is served, or whether there is a cluster. It has one lock, flock(2) on the runtime
directory, which keeps starts of one user from mounting beside each other.
"""
