"""Image-meta, and names by id, as bytes.

The binding's iterator raises UnicodeDecodeError for all image-meta where one key is not UTF-8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rbdfs.errors import NoSuchPool, NotUnderstood
from rbdfs.metadata.encoding import Decoder, encode_string, encode_u64
from rbdfs.metadata.pool_directory import call_class

if TYPE_CHECKING:
    import rados

    from rbdfs.ceph.cluster import Cluster

_PAGE_KEYS = 64


def list_meta(ioctx: rados.Ioctx, image_id: str) -> dict[bytes, bytes]:
    """Return the image-meta of an image by key; blocks. Raises OSError and NotUnderstood."""
    meta: dict[bytes, bytes] = {}
    last = b""
    while True:
        argument = encode_string(last) + encode_u64(_PAGE_KEYS)
        page = Decoder(call_class(ioctx, f"rbd_header.{image_id}", "metadata_list", argument))
        count = page.u32()
        for _ in range(count):
            key = page.string()
            meta[key] = page.string()
        page.finish()
        if count < _PAGE_KEYS:
            return meta
        if max(meta) <= last:
            raise NotUnderstood(f"image-meta of {image_id}: keys up to {last!r} again")
        last = max(meta)


def read_meta(ioctx: rados.Ioctx, image_id: str, key: bytes) -> bytes:
    """Return one value of image-meta; blocks. Raises OSError: ENOENT where there is none."""
    answer = Decoder(
        call_class(ioctx, f"rbd_header.{image_id}", "metadata_get", encode_string(key))
    )
    value = answer.string()
    answer.finish()
    return value


def image_name(ioctx: rados.Ioctx, image_id: str) -> str:
    """Return the name of an image by its id; blocks. Raises OSError: ENOENT, also in the trash."""
    argument = encode_string(image_id.encode("ascii"))
    return Decoder(call_class(ioctx, "rbd_directory", "dir_get_name", argument)).text()


async def pool_name(cluster: Cluster, pool_id: int) -> str:
    """Return the name of a pool by its id. Raises OSError: ENOENT, also if it is not for RBD."""
    for name in await cluster.pools():
        if (await cluster.ioctx(name)).get_pool_id() == pool_id:
            return name
    raise NoSuchPool(f"no pool for rbd has the id {pool_id}")
