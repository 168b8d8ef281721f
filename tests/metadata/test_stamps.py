"""What is written into headers beside librbd."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest
import trio

from rbdfs.ceph.aio import AioBridge
from rbdfs.ceph.cluster import Cluster
from rbdfs.config.ceph_settings import CephSettings
from rbdfs.metadata.cache import MetadataCache
from rbdfs.metadata.stamps import HeaderStamps
from rbdfs.model.ownership import Ownership
from rbdfs.names.catalog import Catalog
from tests.support.images import pool_objects
from tests.support.quota import pool_with_a_quota

if TYPE_CHECKING:
    from tests.support.ceph import Ceph


async def test_an_image_that_is_gone_is_not_made_anew(
    ceph: Ceph, pool: str, image_name: str
) -> None:
    """The object class alone would make a header again, of nothing."""
    spec = f"{pool}/{image_name}"
    # The trash has an object of its own from the first removal on.
    for name in (spec, f"{spec}-b"):
        ceph.rbd("create", "--size=1M", name)
    ceph.rbd("rm", "--no-progress", f"{spec}-b")
    async with Cluster.connect(CephSettings("admin", ceph.conf), AioBridge(), 10) as cluster:
        cache = MetadataCache(cluster)
        catalog, stamps = Catalog(cluster, cache), HeaderStamps(cluster, cache)
        entry = await catalog.find(await catalog.directory(pool), os.fsencode(image_name))
        await stamps.keep(entry, Ownership(mode=0o640))
        assert (await catalog.current(entry)).ownership == Ownership(mode=0o640)
        ceph.rbd("rm", "--no-progress", spec)
        before = pool_objects(ceph, pool)
        # By what is known of it, or where that is a second old by a look at its header.
        with pytest.raises(OSError, match="setting|reading") as caught:
            await stamps.keep(entry, Ownership(uid=1))
        assert caught.value.errno == errno.ENOENT
        assert pool_objects(ceph, pool) == before


async def test_a_pool_that_becomes_full_loses_no_stamp(ceph: Ceph, image_name: str) -> None:
    """An OSD drops what a client has sent that has not heard of it yet, without an answer."""
    full = f"full-{image_name}"
    with pool_with_a_quota(ceph, full) as set_quota:
        ceph.rbd("create", "--size=1M", f"{full}/vm")
        ceph.rados("-p", full, "put", "object", "-", input=b"of some bytes")
        async with Cluster.connect(CephSettings("admin", ceph.conf), AioBridge(), 10) as cluster:
            cache = MetadataCache(cluster)
            catalog, stamps = Catalog(cluster, cache), HeaderStamps(cluster, cache)
            entry = await catalog.find(await catalog.directory(full), b"vm")
            before = (await catalog.attributes(entry, newer=True)).modify_ns
            set_quota(1)
            with trio.fail_after(30):
                await stamps.stamp(entry)
            assert (await catalog.attributes(entry, newer=True)).modify_ns > before
