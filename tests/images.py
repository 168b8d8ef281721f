"""Images made, filled and read back by clients other than rbdfs."""

from __future__ import annotations

import contextlib
import random
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rbd

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.ceph import Ceph

MIB = 1024 * 1024


def random_bytes(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def import_image(ceph: Ceph, spec: str, data: bytes) -> None:
    """Make an image with this content, by `rbd import`."""
    ceph.rbd("import", "--no-progress", "-", spec, input=data)


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
