"""The data path: the kernel connection, and what serves reads and writes without Python."""
