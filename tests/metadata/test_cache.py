"""What is kept of a pool's state, and what makes it be read anew."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, cast

import pytest
import rbd
import trio

from rbdfs.ceph.aio import AioBridge
from rbdfs.ceph.cluster import Cluster
from rbdfs.config.ceph_settings import CephSettings
from rbdfs.errors import Failure, Fenced, NotPermitted, PoolGone, TimedOut, failure
from rbdfs.metadata import cache
from rbdfs.metadata.cache import MetadataCache
from rbdfs.metadata.object_map import ObjectMap
from rbdfs.model.entry import Entry, Key
from rbdfs.model.file_name import ImageSpec
from rbdfs.model.image_attributes import USER, ImageAttributes, SnapAttributes
from rbdfs.moves.migration import image_entry
from tests.support.images import MIB

if TYPE_CHECKING:
    from tests.support.ceph import Ceph

KEPT_S = 3600.0
OBJECT = 4 * MIB


async def test_what_an_image_takes_is_read_anew_after_a_change(
    ceph: Ceph, pool: str, ioctx: Any, image_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that has just been made has its blocks at once, for du(1) and cp --sparse=auto."""
    monkeypatch.setattr(cache, "TTL_S", KEPT_S)
    rbd.RBD().create(ioctx, image_name, 2 * OBJECT)
    async with Cluster.connect(CephSettings("admin", ceph.conf), AioBridge(), 10) as cluster:
        known = MetadataCache(cluster)
        image_id = await known.image_id(pool, "", image_name)
        where = image_entry(ioctx, ImageSpec(pool, "", image_name), image_id)
        attributes = await known.attributes(where, image_name, image_id)

        async def allocated() -> int | None:
            return await known.allocated(where, attributes, None)

        assert await allocated() == 0
        with rbd.Image(ioctx, image_name) as image:
            image.write(b"data", 0)
        assert await allocated() == 0
        known.image_changed(where)
        assert await allocated() == OBJECT


class AwayCluster:
    """As much of a Cluster as a MetadataCache asks for."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.bridge = AioBridge()
        self.background = nursery

    async def ioctx_of(self, _where: Entry) -> None:
        return None


async def test_500_images_with_500_snapshots_are_known_while_the_cluster_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    snaps = tuple(SnapAttributes(n, f"s{n}", USER, MIB, n, False, 0, 0) for n in range(500))
    away = trio.Event()

    async def read_header(_reader: object, image_id: str) -> ImageAttributes:
        if away.is_set():
            raise TimedOut("the cluster is away")
        return ImageAttributes(image_id, MIB, 22, 1, 1, 1, 1, snaps, -1, None, 0, False)

    monkeypatch.setattr(cache, "TTL_S", 0.0)
    monkeypatch.setattr(cache, "read_header", read_header)
    async with trio.open_nursery() as nursery:
        known = MetadataCache(cast("Cluster", AwayCluster(nursery)))
        where = Entry(Key(1, ""), "pool", "")
        for _ in range(2):
            for number in range(500):
                found = await known.attributes(where, "", f"id{number}", known=True)
                assert (found.image_id, len(found.snaps)) == (f"id{number}", 500)
            away.set()


@pytest.mark.parametrize(
    ("error", "is_raised"),
    [
        (RuntimeError("can't start new thread"), False),
        (MemoryError(), False),
        (failure(errno.ENOMEM, "no memory"), False),
        (NotPermitted("not yours"), False),
        (Failure("a scrub error"), False),
        (TimedOut("the cluster is away"), True),
        (Fenced("fenced"), True),
        (PoolGone("removed"), True),
    ],
    ids=lambda each: type(each).__name__,
)
async def test_an_object_map_that_cannot_be_read_costs_its_image_no_more_than_that(
    monkeypatch: pytest.MonkeyPatch, error: Exception, is_raised: bool
) -> None:
    """Large ones are decoded in threads, of which there may be none left: it is asked for again."""
    errors = [error]

    async def read(*_parts: object) -> ObjectMap:
        if errors:
            raise errors.pop()
        return ObjectMap(4, b"\x40")

    monkeypatch.setattr(cache, "read_object_map", read)
    attributes = ImageAttributes("id", 4 * OBJECT, 22, 1 << 3, 1, 1, 1, (), -1, None, 0, False)
    async with trio.open_nursery() as nursery:
        known = MetadataCache(cast("Cluster", AwayCluster(nursery)))
        where = Entry(Key(1, "", "id"), "pool", "")
        if is_raised:
            with pytest.raises(type(error)):
                await known.allocated(where, attributes, None)
        else:
            assert await known.allocated(where, attributes, None) is None
        assert await known.allocated(where, attributes, None) == OBJECT
