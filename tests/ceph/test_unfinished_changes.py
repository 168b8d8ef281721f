"""What is cleared of names that librbd has left half-made, and what stays."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import rbd

from rbdfs.ceph.blocking_image import encoded
from rbdfs.ceph.unfinished_changes import clear_unfinished
from rbdfs.errors import NotUnderstood
from rbdfs.metadata.encoding import encode_string
from tests.support.crashes import barely_create, half_create, half_rename, nearly_rename

if TYPE_CHECKING:
    from collections.abc import Callable


def create(ioctx: Any, name: str) -> str:
    """Make an image; its id."""
    rbd.RBD().create(ioctx, encoded(name), 4096, old_format=False)
    with rbd.Image(ioctx, encoded(name)) as image:
        return str(image.id())


def change_directory(ioctx: Any, method: str, name: str, image_id: str) -> None:
    argument = encode_string(name.encode()) + encode_string(image_id.encode())
    ioctx.execute("rbd_directory", "rbd", method, argument)


@pytest.mark.parametrize("leave", [barely_create, half_create])
def test_half_made(ioctx: Any, image_name: str, leave: Callable[..., None]) -> None:
    leave(ioctx, image_name)
    with pytest.raises(rbd.ImageExists):
        create(ioctx, image_name)
    # And what another server has cleared already.
    for _ in range(2):
        clear_unfinished(ioctx, image_name)
    create(ioctx, image_name)


def test_half_made_with_a_name_that_is_not_utf_8(ioctx: Any, image_name: str) -> None:
    name = os.fsdecode(image_name.encode() + b"\xff")
    barely_create(ioctx, name)
    for _ in range(2):
        clear_unfinished(ioctx, name)
    rbd.RBD().create(ioctx, encoded(name), 4096, old_format=False)
    # What is whole stays.
    clear_unfinished(ioctx, name)
    with rbd.Image(ioctx, encoded(name)) as image:
        assert image.size() == 4096
    # Others list this pool with the binding, which takes UTF-8.
    rbd.RBD().remove(ioctx, encoded(name))


@pytest.mark.parametrize("begin", [half_rename, nearly_rename])
def test_half_renamed(ioctx: Any, image_name: str, begin: Callable[..., None]) -> None:
    """The image keeps the name that the directory has, and the other one is free."""
    entry = SimpleNamespace(image=image_name, image_id=create(ioctx, image_name))
    other = f"{image_name}-2"
    begin(ioctx, entry, other, "renaming")
    kept, free = (image_name, other) if begin is half_rename else (other, image_name)
    for name in (kept, free):
        clear_unfinished(ioctx, name)
    with rbd.Image(ioctx, kept) as image:
        assert image.id() == entry.image_id
    create(ioctx, free)


def test_renamed_onto_what_is_half_made(ioctx: Any, image_name: str) -> None:
    """Each of its two places has another image: the one that has a header keeps its name."""
    other = f"{image_name}-2"
    entry = SimpleNamespace(image=image_name, image_id=create(ioctx, image_name))
    barely_create(ioctx, other)
    half_rename(ioctx, entry, other, "renaming")
    clear_unfinished(ioctx, other)
    with rbd.Image(ioctx, image_name) as image:
        assert image.id() == entry.image_id
    create(ioctx, other)


def test_what_has_a_header_stays(ioctx: Any, image_name: str) -> None:
    """With both places of its name, and with one of them, as on its way to the trash."""
    image_id = create(ioctx, image_name)
    clear_unfinished(ioctx, image_name)
    change_directory(ioctx, "dir_remove_image", image_name, image_id)
    clear_unfinished(ioctx, image_name)
    assert ioctx.stat(f"rbd_id.{image_name}")
    change_directory(ioctx, "dir_add_image", image_name, image_id)
    noted = ioctx.read(f"rbd_id.{image_name}")
    ioctx.remove_object(f"rbd_id.{image_name}")
    clear_unfinished(ioctx, image_name)
    assert ioctx.stat(f"rbd_header.{image_id}")
    ioctx.write_full(f"rbd_id.{image_name}", noted)
    with rbd.Image(ioctx, image_name) as image:
        assert image.id() == image_id


@pytest.mark.parametrize("noted", [b"", b"\x01\x00\x00\x00", encode_string(b"\xff")])
def test_what_is_no_id(ioctx: Any, image_name: str, noted: bytes) -> None:
    ioctx.write_full(f"rbd_id.{image_name}", noted)
    with pytest.raises(NotUnderstood, match="is no id"):
        clear_unfinished(ioctx, image_name)
