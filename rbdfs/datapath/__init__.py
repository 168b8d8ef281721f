"""The native data path: requests from /dev/fuse to librbd and back, without the GIL.

Owns the extension module `native`; importing it raises ImportError where it was not built. It must
not know names, policy or what an errno means to a user: what it is not sure of, it passes on to
pyfuse3.
"""
