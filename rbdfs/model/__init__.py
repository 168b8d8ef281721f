"""Pure values: entries, names, extents, partition tables, the inode table, meters, Ceph's encoding.

Owns what can be computed without waiting for or asking anybody; also counting in the meters of a
mount (metering, figures) and reading them (meters, rates), in memory that it is given. It must not
know trio, rados, rbd, pyfuse3 or any I/O. It has no locks: what Python counts in the meters, the
Trio thread alone writes.
"""
