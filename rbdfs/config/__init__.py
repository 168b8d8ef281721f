"""What was asked for: the command line, mount options, the source, settings of Ceph, the log.

Owns the words that a user may say, their defaults and their refusals, where the log goes, and where
a user's processes leave what others of them find. It must not know what is done with any of it. The
log has a thread of its own, which nobody waits for; there are no locks.
"""
