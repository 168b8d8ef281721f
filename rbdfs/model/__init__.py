"""Pure values: entries, names, extents, partition tables, the inode table, Ceph's encoding.

Owns what can be computed without waiting for or asking anybody. It must not know trio, rados, rbd,
pyfuse3 or any I/O. It has no locks.
"""
