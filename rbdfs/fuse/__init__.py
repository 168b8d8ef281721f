"""The kernel's requests, turned into calls of the rooms below, and their results into answers.

Owns the operations class of pyfuse3, the attributes and flags that the kernel is told, and the
hand-over of open files to the native data path. Around each operation it keeps which are under way
(running_requests), counts them (request_meters), and has those of the data path in the log of -d,
too (traced_requests). It must not know librbd: what is asked of Ceph, and how it fails, is the
business of files/, names/ and ceph/; file_reports, for `rbdfs stat`, only adds what is open here to
what names/ has found. It has no locks; an operation waits in the rooms below.
"""
