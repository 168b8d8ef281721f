"""Image-meta, and the names of images by id, as bytes.

The binding's iterator raises UnicodeDecodeError for all image-meta where one key is not UTF-8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rbdfs.errors import NotUnderstood
from rbdfs.metadata.pool_directory import call_class
from rbdfs.model.encoding import Decoder, encode_string, encode_u64

if TYPE_CHECKING:
    import rados

    from rbdfs.metadata.image_header import ReadOmap

_PAGE_KEYS = 64
# Of the keys of a header's omap (METADATA_KEY_PREFIX of src/cls/rbd/cls_rbd.cc).
_META_PREFIX = "metadata_"


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
    argument = encode_string(image_id.encode("utf-8", "surrogateescape"))
    return Decoder(call_class(ioctx, "rbd_directory", "dir_get_name", argument)).text()


def name_in_trash(ioctx: rados.Ioctx, image_id: str) -> str:
    """Return the name that an image had before it was put into the trash; blocks.

    Raises OSError: ENOENT where it is not there.
    """
    argument = encode_string(image_id.encode("utf-8", "surrogateescape"))
    record = Decoder(call_class(ioctx, "rbd_trash", "trash_get", argument))
    # A cls::rbd::TrashImageSpec.
    _, _, spec = record.versioned(understood=2)
    spec.u8()  # who has put it there
    return spec.text()


async def read_meta_page(read_omap: ReadOmap, image_id: str) -> dict[str, bytes] | None:
    """Return the image-meta of an image by key, in one read; None where that is not all of it.

    That is where a key is not UTF-8, which the binding cannot return, or there are more than fit
    in a page: list_meta() has them. Raises OSError.
    """
    try:
        _, page = await read_omap(f"rbd_header.{image_id}", (), _META_PREFIX, "")
    except NotUnderstood:
        return None
    if len(page) >= _PAGE_KEYS:
        return None
    return {key.removeprefix(_META_PREFIX): value for key, value in page.items()}
