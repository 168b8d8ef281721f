"""Extended attributes tell what the rbd tool tells, and leave nothing behind."""

from __future__ import annotations

import errno
import json
import os
from typing import TYPE_CHECKING, Any

import pytest
import rbd

from rbdfs.ceph.aio import AioBridge
from rbdfs.ceph.cluster import Cluster
from rbdfs.config.ceph_settings import CephSettings
from rbdfs.metadata.cache import MetadataCache
from rbdfs.model.entry import Entry, Key
from rbdfs.model.qemu_filename import QemuFileName, parse_qemu_filename
from rbdfs.names.catalog import Catalog
from rbdfs.names.xattrs import Xattrs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.ceph import Ceph

MIB = 1 << 20


class Asked:
    """Attributes by file name."""

    def __init__(self, xattrs: Xattrs, catalog: Catalog, parent: Entry) -> None:
        self.xattrs = xattrs
        self.catalog = catalog
        self.parent = parent

    async def entry(self, name: str) -> Entry:
        return await self.catalog.find(self.parent, os.fsencode(name))

    async def names(self, name: str) -> list[str]:
        return sorted(os.fsdecode(n) for n in await self.xattrs.names(await self.entry(name)))

    async def value(self, name: str, attribute: str) -> str:
        entry = await self.entry(name)
        return os.fsdecode(await self.xattrs.value(entry, os.fsencode(f"user.rbd.{attribute}")))

    async def missing(self, name: str, attribute: str) -> None:
        with pytest.raises(OSError, match="attribute") as caught:
            await self.value(name, attribute)
        assert caught.value.errno == errno.ENODATA


@pytest.fixture
def settings(ceph: Ceph) -> CephSettings:
    return CephSettings("admin", ceph.conf)


@pytest.fixture
async def asked(settings: CephSettings, pool: str) -> AsyncIterator[Asked]:
    async with Cluster.connect(settings, AioBridge(), 10) as cluster:
        catalog = Catalog(cluster, MetadataCache(cluster), snapshots="all")
        parent = await catalog.directory(pool)
        yield Asked(Xattrs(cluster, catalog, settings), catalog, parent)


def forget(asked: Asked, entry: Entry) -> None:
    """What another client changed is to be seen at once."""
    asked.catalog.changed(entry)


async def test_an_image_as_rbd_info_has_it(
    ceph: Ceph, asked: Asked, pool: str, image_name: str
) -> None:
    ceph.rbd("create", "--size=5M", "--object-size=1M", f"{pool}/{image_name}")
    info = json.loads(ceph.rbd("info", "--format=json", f"{pool}/{image_name}"))
    assert await asked.names(image_name) == sorted(
        f"user.rbd.{name}"
        for name in ("id", "size", "object_size", "features", "qemu", "lock_owner", "watchers")
    )
    assert await asked.value(image_name, "id") == info["id"]
    assert await asked.value(image_name, "size") == str(info["size"]) == str(5 * MIB)
    assert await asked.value(image_name, "object_size") == str(info["object_size"]) == str(MIB)
    assert await asked.value(image_name, "features") == ",".join(info["features"])
    for absent in ("parent", "snap_id", "data_pool", "nonsense", "meta.none", "meta.", ""):
        await asked.missing(image_name, absent)


async def test_a_clone_of_a_snapshot(ceph: Ceph, asked: Asked, pool: str, image_name: str) -> None:
    parent, clone = f"{pool}/{image_name}", f"{image_name}-clone"
    ceph.rbd("create", "--size=4M", parent)
    ceph.rbd("snap", "create", "--no-progress", f"{parent}@a@b:c".replace("@b", "%b"))
    ceph.rbd("clone", "--rbd-default-clone-format=2", f"{parent}@a%b:c", f"{pool}/{clone}")
    snapshot = f"{image_name}@a%25b:c"
    snap_id = json.loads(ceph.rbd("snap", "ls", "--format=json", parent))[0]["id"]
    assert await asked.value(snapshot, "snap_id") == str(snap_id)
    assert await asked.value(f"{image_name}@id:{snap_id}", "size") == str(4 * MIB)
    names = await asked.names(snapshot)
    assert {"user.rbd.snap_id", "user.rbd.qemu", "user.rbd.id"} <= set(names)
    assert not {"user.rbd.watchers", "user.rbd.lock_owner"} & set(names)
    await asked.missing(snapshot, "watchers")
    assert await asked.value(clone, "parent") == f"{parent}@a%25b:c"
    # Once removed, the snapshot is kept for its clone under another name.
    ceph.rbd("snap", "rm", "--no-progress", f"{parent}@a%b:c")
    forget(asked, await asked.entry(image_name))
    assert await asked.value(clone, "parent") == f"{parent}@id:{snap_id}"
    ceph.rbd("trash", "mv", parent)
    image_id = await asked.value(clone, "parent")
    assert image_id.startswith(f"{pool}/id:")
    assert image_id.endswith(f"@id:{snap_id}")


async def test_a_separate_data_pool(ceph: Ceph, asked: Asked, pool: str, image_name: str) -> None:
    ceph.rbd("create", "--size=4M", "--data-pool=rbd", f"{pool}/{image_name}")
    assert await asked.value(image_name, "data_pool") == "rbd"
    assert "data-pool" in (await asked.value(image_name, "features")).split(",")


async def test_who_uses_an_image(
    ceph: Ceph, asked: Asked, ioctx: Any, pool: str, image_name: str
) -> None:
    rbd.RBD().create(ioctx, image_name, MIB)
    assert await asked.value(image_name, "watchers") == ""
    assert await asked.value(image_name, "lock_owner") == ""
    with rbd.Image(ioctx, image_name) as image:
        image.lock_acquire(rbd.RBD_LOCK_MODE_EXCLUSIVE)
        (address,) = ceph.watchers(f"{pool}/{image_name}")
        watcher = await asked.value(image_name, "watchers")
        assert watcher.split(" client.")[0] == address
        assert await asked.value(image_name, "lock_owner") == watcher
    assert ceph.watchers(f"{pool}/{image_name}") == []


async def test_the_file_name_for_qemu(
    ceph: Ceph, asked: Asked, ioctx: Any, pool: str, image_name: str
) -> None:
    odd = f"{image_name}:a@b/c\\d,e"
    rbd.RBD().create(ioctx, odd, MIB)
    name = odd.replace("@", "%40").replace("/", "%2F")
    text = await asked.value(name, "qemu")
    assert parse_qemu_filename(text) == QemuFileName(pool, odd, conf=str(ceph.conf))
    # Another user and other settings are told, but no secret.
    pairs = (("mon_host", "127.0.0.1:1"), ("key", "c2VjcmV0"), ("keyring", "/k@y"))
    settings = CephSettings("rw", ceph.conf, pairs=pairs)
    async with Cluster.connect(CephSettings("rw", ceph.conf), AioBridge(), 10) as cluster:
        catalog = Catalog(cluster, MetadataCache(cluster))
        other = Asked(Xattrs(cluster, catalog, settings), catalog, asked.parent)
        parsed = parse_qemu_filename(await other.value(name, "qemu"))
    assert (parsed.id, parsed.options) == ("rw", (pairs[0], pairs[2]))


async def test_image_meta(
    ceph: Ceph, asked: Asked, pool: str, image_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = f"{pool}/{image_name}"
    ceph.rbd("create", "--size=1M", spec)
    entry = await asked.entry(image_name)
    keys = [f"key{number}" for number in range(70)] + ["with space/and\u00e4", ".conf"]
    for key in keys:
        await asked.xattrs.set(entry, os.fsencode(f"user.rbd.meta.{key}"), key.encode())
    monkeypatch.setattr("rbdfs.metadata.image_meta._PAGE_KEYS", 9)
    names = set(await asked.names(image_name))
    assert {f"user.rbd.meta.{key}" for key in keys} <= names
    for key in keys:
        assert await asked.value(image_name, f"meta.{key}") == key
    assert ceph.rbd("image-meta", "get", spec, ".conf").strip() == ".conf"
    await asked.xattrs.remove(entry, b"user.rbd.meta.key1")
    assert "user.rbd.meta.key1" not in await asked.names(image_name)
    with pytest.raises(OSError, match="key1") as caught:
        await asked.xattrs.remove(entry, b"user.rbd.meta.key1")
    assert caught.value.errno == errno.ENODATA
    assert ceph.watchers(spec) == []


async def test_a_value_with_a_nul_is_refused(
    ceph: Ceph, asked: Asked, pool: str, image_name: str
) -> None:
    """librbd takes strings of C: it kept what came before the NUL, and said that it kept all."""
    ceph.rbd("create", "--size=1M", f"{pool}/{image_name}")
    entry = await asked.entry(image_name)
    await asked.xattrs.set(entry, b"user.rbd.meta.a", b"old")
    with pytest.raises(OSError, match="NUL") as caught:
        await asked.xattrs.set(entry, b"user.rbd.meta.a", b"a\0b")
    assert caught.value.errno == errno.EINVAL
    assert await asked.value(image_name, "meta.a") == "old"


async def test_odd_image_meta_hides_nothing(
    ceph: Ceph, asked: Asked, pool: str, image_name: str
) -> None:
    spec = f"{pool}/{image_name}"
    ceph.rbd("create", "--size=1M", spec)
    ceph.rbd("image-meta", "set", spec, "\udcff", "v")
    ceph.rbd("image-meta", "set", spec, "binary", "\udcfe")
    ceph.rbd("image-meta", "set", spec, "k" * 300, "v")
    ceph.rbd("image-meta", "set", spec, "plain", "two\nlines")
    names = await asked.names(image_name)
    assert [name for name in names if ".meta." in name] == ["user.rbd.meta.plain"]
    assert await asked.value(image_name, "meta.plain") == "two\nlines"
    assert await asked.value(image_name, "meta.binary") == "\udcfe"


async def test_meta_of_an_image_that_another_client_has_locked(
    asked: Asked, ioctx: Any, image_name: str
) -> None:
    rbd.RBD().create(ioctx, image_name, MIB)
    entry = await asked.entry(image_name)
    with rbd.Image(ioctx, image_name) as image:
        image.lock_acquire(rbd.RBD_LOCK_MODE_EXCLUSIVE)
        await asked.xattrs.set(entry, b"user.rbd.meta.a", b"b")
        assert image.is_exclusive_lock_owner()
    assert await asked.value(image_name, "meta.a") == "b"


async def test_what_cannot_be_set(ceph: Ceph, asked: Asked, pool: str, image_name: str) -> None:
    ceph.rbd("create", "--size=1M", f"{pool}/{image_name}")
    ceph.rbd("snap", "create", "--no-progress", f"{pool}/{image_name}@s")
    image, snapshot = await asked.entry(image_name), await asked.entry(f"{image_name}@s")
    for entry, name, code in (
        (image, b"user.rbd.size", errno.EPERM),
        (image, b"user.rbd.meta.", errno.EPERM),
        (image, b"user.rbd.meta.rbdfs.growing", errno.EPERM),
        (image, b"user.other", errno.EPERM),
        (image, b"security.selinux", errno.EOPNOTSUPP),
        (asked.parent, b"trusted.libvirt.security.dac", errno.EOPNOTSUPP),
        (snapshot, b"user.rbd.meta.a", errno.EPERM),
        (asked.parent, b"user.rbd.meta.a", errno.EPERM),
    ):
        for change in (asked.xattrs.set(entry, name, b"x"), asked.xattrs.remove(entry, name)):
            with pytest.raises(OSError, match="attribute") as caught:
                await change
            assert caught.value.errno == code, name
    ceph.rbd("lock", "add", f"{pool}/{image_name}", "mine")
    with pytest.raises(OSError, match="holds lock 'mine'") as caught:
        await asked.xattrs.set(image, b"user.rbd.meta.a", b"x")
    assert caught.value.errno == errno.EBUSY


async def test_a_client_that_may_only_read(ceph: Ceph, pool: str, image_name: str) -> None:
    ceph.rbd("create", "--size=1M", f"{pool}/{image_name}")
    async with Cluster.connect(CephSettings("ro", ceph.conf), AioBridge(), 10) as cluster:
        catalog = Catalog(cluster, MetadataCache(cluster))
        asked = Asked(Xattrs(cluster, catalog), catalog, await catalog.directory(pool))
        for name in await asked.names(image_name):
            await asked.value(image_name, name.removeprefix("user.rbd."))
        with pytest.raises(OSError, match="permission") as caught:
            await asked.xattrs.set(await asked.entry(image_name), b"user.rbd.meta.a", b"x")
    assert caught.value.errno == errno.EROFS


async def test_what_the_kernel_asks_before_each_write_reaches_no_cluster(pool: str) -> None:
    unused: Any = None
    xattrs = Xattrs(unused, unused)
    image, directory = Entry(Key(1, "", "id"), pool, "", "vm1"), Entry(Key(1, ""), pool)
    for entry, name, code in (
        (image, b"security.capability", errno.EOPNOTSUPP),
        (image, b"system.posix_acl_access", errno.EOPNOTSUPP),
        (directory, b"trusted.overlay.opaque", errno.EOPNOTSUPP),
        (image, b"user.other", errno.ENODATA),
        (directory, b"user.rbd.id", errno.ENODATA),
    ):
        with pytest.raises(OSError, match="attribute") as caught:
            await xattrs.value(entry, name)
        assert caught.value.errno == code
    assert await xattrs.names(directory) == []
