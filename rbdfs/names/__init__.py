"""What there is: the names below the mount point, what they stand for, and changes to that.

Owns the catalog (which name is which entry), listings, partitions as files, extended attributes,
and what ``-o manage`` allows. It must not know what is open (files/) nor the kernel's inodes as
requests see them (fuse/). It has no locks: librbd and the OSDs order what is done to names.
"""
