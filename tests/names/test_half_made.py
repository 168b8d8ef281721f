"""What is in the way of who goes on with a dead client's changes, and what others are making."""

from __future__ import annotations

import os
import struct
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import rbd
import trio

from rbdfs.ceph import unfinished_changes
from rbdfs.ceph.aio import AioBridge
from rbdfs.ceph.cluster import Cluster
from rbdfs.config.ceph_settings import CephSettings
from rbdfs.metadata.cache import MetadataCache
from rbdfs.model.encoding import encode_string
from rbdfs.names.catalog import Catalog
from rbdfs.names.manage import Management
from tests.support.conditions import eventually_async
from tests.support.crashes import half_create, half_rename, nearly_rename

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.support.ceph import Ceph

MIB = 1 << 20


class Place:
    """A pool, and what a mount of it removes there."""

    def __init__(self, catalog: Catalog, pool: Any, management: Management) -> None:
        self.find = partial(catalog.find, pool)
        self.clear_made = partial(management.half_made.clear_made, pool)
        self.clear_renamed = partial(management.half_made.clear_renamed, pool)


@pytest.fixture
async def place(ceph: Ceph, pool: str) -> AsyncIterator[Place]:
    async with Cluster.connect(CephSettings("admin", ceph.conf), AioBridge(), 10) as cluster:
        catalog = Catalog(cluster, MetadataCache(cluster))
        yield Place(catalog, await catalog.directory(pool), Management(cluster, catalog))


def note_looks(monkeypatch: Any, name: str, then: Callable[[], object]) -> list[object]:
    """What the looks for halves find; *then* is done after the first one."""
    looks: list[object] = []
    find = getattr(unfinished_changes, name)

    def look(*args: Any, **kwargs: Any) -> object:
        looks.append(find(*args, **kwargs))
        if len(looks) == 1:
            then()
        return looks[-1]

    monkeypatch.setattr(unfinished_changes, name, look)
    return looks


async def test_what_another_client_is_making_stays(
    place: Place, ioctx: Any, image_name: str, monkeypatch: Any
) -> None:
    image_id = half_create(ioctx, image_name)[4:].decode()

    def go_on() -> None:
        prefix = encode_string(f"rbd_data.{image_id}".encode())
        argument = struct.pack("<QBQ", MIB, 22, 0) + prefix + struct.pack("<q", -1)
        ioctx.execute(f"rbd_header.{image_id}", "rbd", "create", argument)

    looks = note_looks(monkeypatch, "half_made", go_on)
    await place.clear_made(os.fsencode(image_name), None)
    assert looks[0] is not None
    assert looks[1:] == [None]
    with rbd.Image(ioctx, image_name) as image:
        assert (image.id(), image.size()) == (image_id, MIB)


async def test_what_a_dead_client_was_making_goes(
    place: Place, ioctx: Any, image_name: str, monkeypatch: Any
) -> None:
    half_create(ioctx, image_name)
    looks = note_looks(monkeypatch, "half_made", lambda: None)
    await place.clear_made(os.fsencode(image_name), None)
    assert len(looks) > 2
    rbd.RBD().create(ioctx, image_name, MIB)


@pytest.mark.parametrize("begin", [half_rename, nearly_rename])
async def test_what_another_client_is_renaming_stays(
    place: Place, ioctx: Any, image_name: str, monkeypatch: Any, begin: Callable[..., None]
) -> None:
    """It may be the very image that the dead one was renaming."""
    rbd.RBD().create(ioctx, image_name, MIB)
    entry, other = await place.find(os.fsencode(image_name)), f"{image_name}-2"
    begin(ioctx, entry, other, "renaming")

    def go_on() -> None:
        if begin is half_rename:
            ioctx.remove_object(f"rbd_id.{other}")
            rbd.RBD().rename(ioctx, image_name, other)
        else:
            ioctx.remove_object(f"rbd_id.{image_name}")

    note_looks(monkeypatch, "half_renamed", go_on)
    name = other if begin is half_rename else image_name
    await place.clear_renamed(os.fsencode(name), entry)
    with rbd.Image(ioctx, other) as image:
        assert image.id() == entry.image_id


async def test_who_is_interrupted_meanwhile_leaves_it(
    place: Place, ioctx: Any, image_name: str, monkeypatch: Any
) -> None:
    half_create(ioctx, image_name)
    looks = note_looks(monkeypatch, "half_made", lambda: None)

    async def looked() -> bool:
        return bool(looks)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(place.clear_made, os.fsencode(image_name), None)
        await eventually_async(looked)
        nursery.cancel_scope.cancel()
    with pytest.raises(rbd.ImageExists):
        rbd.RBD().create(ioctx, image_name, MIB)
