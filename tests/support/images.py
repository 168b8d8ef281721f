"""Images made, filled and read back by clients other than rbdfs."""

from __future__ import annotations

import contextlib
import hashlib
import random
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rados
import rbd

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.ceph import Ceph

MIB = 1024 * 1024
# More than any has.
_OBJECT_BYTES = 8 * MIB
_OMAP_KEYS = 10_000


def random_bytes(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def import_image(ceph: Ceph, spec: str, data: bytes, *options: str) -> None:
    """Make an image with this content, by `rbd import`."""
    ceph.rbd("import", "--no-progress", *options, "-", spec, input=data)


def export_image(ceph: Ceph, spec: str) -> bytes:
    """The content of an image or a snapshot, by `rbd export`."""
    with tempfile.TemporaryDirectory(prefix="rbdfs-export-") as scratch:
        path = Path(scratch, "image")
        ceph.rbd("export", "--no-progress", spec, str(path))
        return path.read_bytes()


@contextlib.contextmanager
def open_image(ceph: Ceph, pool: str, name: str, **options: Any) -> Iterator[Any]:
    """An image as librbd opens it for another client."""
    with (
        ceph.connect() as cluster,
        cluster.open_ioctx(pool) as ioctx,
        rbd.Image(ioctx, name, **options) as image,
    ):
        yield image


def pool_objects(ceph: Ceph, pool: str) -> dict[tuple[str, str], str]:
    """A digest of every object of a pool, by namespace and name: its data, omap and attributes.

    What is the same before and after was changed by nobody.
    """
    found = {}
    with ceph.connect() as cluster, cluster.open_ioctx(pool) as ioctx:
        ioctx.set_namespace(rados.LIBRADOS_ALL_NSPACES)
        names = [(item.nspace, item.key) for item in ioctx.list_objects()]
        for namespace, name in names:
            ioctx.set_namespace(namespace)
            digest = hashlib.sha256(ioctx.read(name, _OBJECT_BYTES))
            with rados.ReadOpCtx() as operation:
                pairs, _ = ioctx.get_omap_vals(operation, "", "", _OMAP_KEYS)
                ioctx.operate_read_op(operation, name)
                for key, value in pairs:
                    digest.update(key.encode() + b"=" + (value or b"") + b"\n")
            for key, value in sorted(ioctx.get_xattrs(name)):
                digest.update(key.encode() + b":" + value + b"\n")
            found[namespace, name] = digest.hexdigest()
    return found


@contextlib.contextmanager
def watched(ioctx: rados.Ioctx, object_name: str) -> Iterator[None]:
    """Watch an object, as a client does that has an image open."""
    watch = ioctx.watch(object_name, lambda *_: None)
    try:
        yield
    finally:
        watch.close()
        # A Watch in a cycle, as a traceback makes one, ends the process when that is collected:
        # its __dealloc__ (rados.pyx) looks at what the collector has taken from it.
        del watch
