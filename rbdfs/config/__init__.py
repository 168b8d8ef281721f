"""What was asked for: the command line, mount options, the source, settings of Ceph, the log.

Owns the words that a user may say, their defaults and their refusals. It must not know what is
done with them. It has no locks.
"""
