"""The kernel's requests, turned into calls of the rooms below, and their results into answers.

Owns the operations class of pyfuse3, the attributes and flags that the kernel is told, and the
hand-over of open files to the native data path. It must not know librbd: what is asked of Ceph,
and how it fails, is the business of files/, names/ and ceph/. It has no locks; an operation waits
in the rooms below.
"""
