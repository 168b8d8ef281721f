"""rbdfs mounts a Ceph pool as a directory: RBD images and snapshots as files."""

from importlib.metadata import version

__version__ = version("rbdfs")
