"""What there is: the names below the mount point, what they stand for, and changes to that.

Owns the catalog (which name is which entry), listings, partitions as files, extended attributes,
what ``-o manage`` allows, and what `rbdfs stat` tells of an image (image_report): among it where it
comes from (ancestry) and what comes from it (children). It must not know what is open (files/) nor
the kernel's inodes as requests see them (fuse/). One lock, of an open directory: one task reads on
in it at a time. Changes need none: librbd and the OSDs order what is done to names.
"""
