"""What is kept of a pool's state, and what makes it be read anew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import rbd

from rbdfs.ceph.aio import AioBridge
from rbdfs.ceph.cluster import Cluster
from rbdfs.config.ceph_settings import CephSettings
from rbdfs.metadata import cache
from rbdfs.metadata.cache import MetadataCache
from rbdfs.model.file_name import ImageSpec
from rbdfs.moves.migration import image_entry
from tests.support.images import MIB

if TYPE_CHECKING:
    import pytest

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
