"""The native data path, and rbdfs's own connection to the kernel.

`connection` and `requests` are plain Python.  `native` is the extension; importing it raises
ImportError where it was not built.
"""
