"""What is taken for half-made of the names that librbd keeps, what is removed, and what stays."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import rbd

from rbdfs.ceph.blocking_image import encoded
from rbdfs.ceph.unfinished_changes import Half, half_made, half_renamed, made_by, remove_half
from rbdfs.errors import NotUnderstood
from rbdfs.model.encoding import encode_string
from tests.support.crashes import barely_create, half_create, half_rename, nearly_rename

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.ceph import Ceph


def create(ioctx: Any, name: str) -> str:
    """Make an image; its id."""
    rbd.RBD().create(ioctx, encoded(name), 4096, old_format=False)
    with rbd.Image(ioctx, encoded(name)) as image:
        return str(image.id())


def change_directory(ioctx: Any, method: str, name: str, image_id: str) -> None:
    argument = encode_string(name.encode()) + encode_string(image_id.encode())
    ioctx.execute("rbd_directory", "rbd", method, argument)


def clear(ioctx: Any, name: str, half: Half | None) -> None:
    assert half is not None
    # And what another server has cleared already.
    for _ in range(2):
        remove_half(ioctx, name, half)


@pytest.mark.parametrize("leave", [barely_create, half_create])
def test_half_made(ioctx: Any, image_name: str, leave: Callable[..., bytes]) -> None:
    leave(ioctx, image_name)
    with pytest.raises(rbd.ImageExists):
        create(ioctx, image_name)
    half = half_made(ioctx, image_name, None)
    clear(ioctx, image_name, half)
    assert half_made(ioctx, image_name, None) is None
    image_id = create(ioctx, image_name)
    # What has got the name since.
    assert half is not None
    remove_half(ioctx, image_name, half)
    with rbd.Image(ioctx, image_name) as image:
        assert image.id() == image_id


@pytest.mark.parametrize("leave", [barely_create, half_create])
def test_half_made_by_another_client(
    ceph: Ceph, ioctx: Any, image_name: str, leave: Callable[..., bytes]
) -> None:
    with ceph.connect() as client, client.open_ioctx(ioctx.name) as own:
        number = f"{client.get_instance_id():x}"
        leave(ioctx, image_name)
        assert half_made(ioctx, image_name, number) is None
        other = f"{image_name}-2"
        leave(own, other)
        half = half_made(ioctx, other, number)
        assert half == half_made(ioctx, other, None)
        clear(ioctx, other, half)
        create(ioctx, other)
    clear(ioctx, image_name, half_made(ioctx, image_name, None))


@pytest.mark.parametrize(
    ("image_id", "maker", "expected"),
    [
        ("10195afe7b34", "1019", True),
        ("10195afe7b34", "1018", False),
        # A random number of less than eight digits.
        ("1019f", "1019", True),
        ("1019", "1019", False),
        # What is longer than librbd wants loses its beginning.
        ("123456fe7b3400", "123456", True),
        ("456789fe7b3400", "123456789", True),
        ("456788fe7b3400", "123456789", False),
        ("", "1019", False),
        ("anything", None, True),
    ],
)
def test_who_made_an_image(image_id: str, maker: str | None, expected: bool) -> None:
    assert made_by(image_id, maker) is expected


def test_half_made_with_a_name_that_is_not_utf_8(ioctx: Any, image_name: str) -> None:
    name = os.fsdecode(image_name.encode() + b"\xff")
    barely_create(ioctx, name)
    clear(ioctx, name, half_made(ioctx, name, None))
    rbd.RBD().create(ioctx, encoded(name), 4096, old_format=False)
    # What is whole is no half.
    assert half_made(ioctx, name, None) is None
    # Others list this pool with the binding, which takes UTF-8.
    rbd.RBD().remove(ioctx, encoded(name))


@pytest.mark.parametrize("begin", [half_rename, nearly_rename])
def test_half_renamed(ioctx: Any, image_name: str, begin: Callable[..., None]) -> None:
    """The image keeps the name that the directory has, and the other one is free."""
    entry = SimpleNamespace(image=image_name, image_id=create(ioctx, image_name))
    other = f"{image_name}-2"
    begin(ioctx, entry, other, "renaming")
    kept, free = (image_name, other) if begin is half_rename else (other, image_name)
    assert half_renamed(ioctx, kept, entry.image_id) is None
    # Another image may be renamed to it at this moment, by another client.
    assert half_renamed(ioctx, free, "1019f") is None
    assert half_made(ioctx, free, None) is None
    clear(ioctx, free, half_renamed(ioctx, free, entry.image_id))
    with rbd.Image(ioctx, kept) as image:
        assert image.id() == entry.image_id
    create(ioctx, free)


def test_renamed_onto_what_is_half_made(ioctx: Any, image_name: str) -> None:
    """Each of its two places has another image: each is of another client's."""
    other = f"{image_name}-2"
    entry = SimpleNamespace(image=image_name, image_id=create(ioctx, image_name))
    barely_create(ioctx, other)
    half_rename(ioctx, entry, other, "renaming")
    made, renamed = half_made(ioctx, other, None), half_renamed(ioctx, other, entry.image_id)
    clear(ioctx, other, renamed)
    assert half_made(ioctx, other, None) == made
    clear(ioctx, other, made)
    with rbd.Image(ioctx, image_name) as image:
        assert image.id() == entry.image_id
    create(ioctx, other)


def test_what_has_a_header_is_whole(ioctx: Any, image_name: str) -> None:
    """With both places of its name, and with one of them, as on its way to the trash."""
    image_id = create(ioctx, image_name)

    def halves() -> set[Half | None]:
        found = half_renamed(ioctx, image_name, image_id)
        return {half_made(ioctx, image_name, None), found}

    assert halves() == {None}
    change_directory(ioctx, "dir_remove_image", image_name, image_id)
    assert halves() == {None}
    change_directory(ioctx, "dir_add_image", image_name, image_id)
    ioctx.remove_object(f"rbd_id.{image_name}")
    assert halves() == {None}


def test_what_has_got_another_id_stays(ioctx: Any, image_name: str) -> None:
    """In either place, between a look and the removal."""
    image_id = half_create(ioctx, image_name)[4:].decode()
    remove_half(ioctx, image_name, Half("1019f", "1019f"))
    assert half_made(ioctx, image_name, None) == Half(image_id, image_id)


@pytest.mark.parametrize("noted", [b"", b"\x01\x00\x00\x00", encode_string(b"\xff")])
def test_what_is_no_id(ioctx: Any, image_name: str, noted: bytes) -> None:
    ioctx.write_full(f"rbd_id.{image_name}", noted)
    with pytest.raises(NotUnderstood, match="is no id"):
        half_made(ioctx, image_name, None)
