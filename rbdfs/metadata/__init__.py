"""Ceph's own objects, read without opening images where that can be, and caches of them.

Owns the decoders of rbd_directory, headers, object maps, image-meta and migration records, with
rados and rbd beside ceph/. It must not know file names or what is open: it answers by pool,
namespace and image id. Its caches are single flights: one task reads, all who ask meanwhile share
the answer, and whoever changes something invalidates it. It has no locks.
"""
