"""Making, removing and renaming: what librbd does, and what a system call's users expect."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from typing import TYPE_CHECKING, Any

import pytest
import rbd

from rbdfs.ceph import directory_changes, trash_changes
from rbdfs.ceph.aio import AioBridge
from rbdfs.ceph.cluster import Cluster
from rbdfs.config.ceph_settings import CephSettings
from rbdfs.metadata.cache import MetadataCache
from rbdfs.names.catalog import POOL_LIST, Catalog
from rbdfs.names.clones import Clones
from rbdfs.names.manage import Management

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from rbdfs.model.entry import Entry
    from tests.support.ceph import Ceph

MIB = 1 << 20
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2


class Managed:
    """A pool that is administered by file names."""

    def __init__(self, cluster: Cluster, parent: Entry, catalog: Catalog, **options: Any) -> None:
        self.cluster = cluster
        self.parent = parent
        self.catalog = catalog
        options.setdefault("remove_snapshots", True)
        self.management = Management(cluster, catalog, **options)

    async def find(self, name: str, parent: Entry | None = None) -> Entry:
        return await self.catalog.find(parent or self.parent, os.fsencode(name))

    async def exists(self, name: str) -> bool:
        try:
            await self.find(name)
        except FileNotFoundError:
            return False
        return True

    async def create(self, name: str, parent: Entry | None = None) -> Entry:
        return await self.management.create(parent or self.parent, os.fsencode(name))

    async def unlink(self, name: str) -> None:
        await self.management.unlink(await self.find(name))

    async def link(self, name: str, new: str, parent: Entry | None = None) -> Entry:
        image = await self.find(name)
        return await self.management.snapshot(image, parent or self.parent, os.fsencode(new))

    async def rename(
        self, name: str, new: str, parent: Entry | None = None, flags: int = 0
    ) -> None:
        entry = await self.find(name)
        await self.management.rename(entry, parent or self.parent, os.fsencode(new), flags)

    async def mkdir(self, name: str, parent: Entry | None = None) -> Entry:
        return await self.management.make_namespace(parent or self.parent, os.fsencode(name))

    async def rmdir(self, name: str) -> None:
        await self.management.remove_namespace(await self.find(name))


async def managed_as(cluster: Cluster, pool: str, **options: Any) -> Managed:
    catalog = Catalog(cluster, MetadataCache(cluster), snapshots="all")
    return Managed(cluster, await catalog.directory(pool), catalog, **options)


@pytest.fixture
async def managed(ceph: Ceph, pool: str) -> AsyncIterator[Managed]:
    async with Cluster.connect(CephSettings("admin", ceph.conf), AioBridge(), 10) as cluster:
        yield await managed_as(cluster, pool)


@contextlib.contextmanager
def refused(code: int) -> Iterator[None]:
    with pytest.raises(OSError, match=".") as caught:
        yield
    assert caught.value.errno == code, caught.value


def trashed(ceph: Ceph, pool: str) -> list[str]:
    return [entry["name"] for entry in json.loads(ceph.rbd("trash", "ls", "--format=json", pool))]


async def test_an_image_is_made(ceph: Ceph, managed: Managed, pool: str, image_name: str) -> None:
    assert not await managed.exists(image_name)
    entry = await managed.create(image_name)
    info = json.loads(ceph.rbd("info", "--format=json", f"{pool}/{image_name}"))
    assert (entry.image_id, entry.size) == (info["id"], 0) == (info["id"], info["size"])
    ceph.rbd("create", "--size=1M", f"{pool}/{image_name}-other")
    other = json.loads(ceph.rbd("info", "--format=json", f"{pool}/{image_name}-other"))
    assert (info["features"], info["object_size"]) == (other["features"], other["object_size"])
    with refused(errno.EEXIST):
        await managed.create(image_name)


async def test_options_for_images_that_are_made(
    ceph: Ceph, managed: Managed, pool: str, image_name: str
) -> None:
    options: dict[str, Any] = {"data_pool": "rbd", "object_size": MIB}
    await (await managed_as(managed.cluster, pool, **options)).create(image_name)
    info = json.loads(ceph.rbd("info", "--format=json", f"{pool}/{image_name}"))
    assert (info["data_pool"], info["object_size"]) == ("rbd", MIB)
    with refused(errno.ENOENT):
        await (await managed_as(managed.cluster, pool, data_pool="none")).create("x")
    assert not await managed.exists("x")


@pytest.mark.parametrize("name", ["a%2Fb%40c", "%FF%FE", " line\nfeed ", "%2E%2E", "\u00e4", "-x"])
async def test_names_of_all_kinds(ceph: Ceph, managed: Managed, pool: str, name: str) -> None:
    """Made, snapshotted, renamed and removed under any bytes."""
    new = "%2E" if name == "%2E%2E" else f"{name}2"
    entry = await managed.create(name)
    assert entry.image in ceph.rbd("ls", pool)
    await managed.link(name, f"{name}@{name}")
    await managed.rename(f"{name}@{name}", f"{name}@{new}")
    await managed.rename(name, new)
    assert (await managed.find(f"{new}@{new}")).image_id == entry.image_id
    await managed.unlink(f"{new}@{new}")
    await managed.unlink(new)
    assert not await managed.exists(new)
    ceph.rbd("trash", "purge", pool)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("a@b", errno.EPERM),
        ("a@id:5", errno.EPERM),
        ("%zz", errno.EINVAL),
        ("nul%00", errno.EINVAL),
        ("@x", errno.EINVAL),
        ("n" * 256, errno.ENAMETOOLONG),
    ],
)
async def test_no_name_of_an_image(managed: Managed, name: str, code: int) -> None:
    with refused(code):
        await managed.create(name)


async def test_an_image_goes_to_the_trash_with_its_snapshots(
    ceph: Ceph, managed: Managed, pool: str, image_name: str
) -> None:
    entry = await managed.create(image_name)
    await managed.link(image_name, f"{image_name}@s")
    ceph.rbd("snap", "protect", f"{pool}/{image_name}@s")
    await managed.unlink(image_name)
    assert not await managed.exists(image_name)
    assert image_name in trashed(ceph, pool)
    assert entry.image_id is not None
    ceph.rbd("trash", "restore", f"{pool}/{entry.image_id}")
    assert (await managed.find(f"{image_name}@s")).image_id == entry.image_id


def move_away(ioctx: Any, name: str) -> None:
    rbd.RBD().rename(ioctx, name, f"{name}-mine")


def put_into_the_trash(ioctx: Any, name: str) -> None:
    rbd.RBD().trash_move(ioctx, name, 0)


async def unlink(managed: Managed, entry: Entry) -> None:
    await managed.management.unlink(entry)


async def rename(managed: Managed, entry: Entry) -> None:
    await managed.management.rename(entry, managed.parent, b"new-name", 0)


@pytest.mark.parametrize("lose", [move_away, put_into_the_trash])
@pytest.mark.parametrize(
    ("change", "where", "look"),
    [
        (unlink, trash_changes, None),
        (unlink, trash_changes, "refuse_watched"),
        (unlink, trash_changes, "refuse_renamed"),
        (rename, directory_changes, None),
        (rename, directory_changes, "refuse_advisory_lock"),
    ],
)
async def test_an_image_that_got_the_name_meanwhile_stays(
    managed: Managed,
    ioctx: Any,
    image_name: str,
    monkeypatch: Any,
    change: Callable[[Managed, Entry], Awaitable[None]],
    where: Any,
    look: str | None,
    lose: Callable[[Any, str], None],
) -> None:
    """librbd moves and renames by name, which another client gives to another image meanwhile.

    That is after *look*; None: before, while it is believed to be the one that it was.
    """
    entry = await managed.create(image_name)
    asked = getattr(where, look) if look else None

    def swap(*args: object) -> Any:
        found = None if asked is None else asked(*args)
        monkeypatch.undo()
        lose(ioctx, image_name)
        rbd.RBD().create(ioctx, image_name, MIB)
        return found

    if look is None:
        swap()
    else:
        monkeypatch.setattr(where, look, swap)
    with refused(errno.ENOENT):
        await change(managed, entry)
    other = await managed.find(image_name)
    assert other.image_id != entry.image_id
    assert other.size == MIB
    assert not await managed.exists("new-name")
    if lose is put_into_the_trash:
        assert entry.image_id in [image["id"] for image in rbd.RBD().trash_list(ioctx)]
    else:
        assert (await managed.find(f"{image_name}-mine")).image_id == entry.image_id


@pytest.mark.parametrize("third", [False, True])
async def test_what_has_the_name_after_a_rename_keeps_it(
    managed: Managed, ioctx: Any, image_name: str, monkeypatch: Any, caplog: Any, third: bool
) -> None:
    """Another client renames the image at once: that undoes nothing, and what is replaced stays so.

    Where it gives the name to a third image, nobody can tell that one from what was renamed by
    mistake.
    """
    old, new = await managed.create(image_name), await managed.create(f"{image_name}-new")
    name, parent, renamed = os.fsencode(image_name), managed.parent, rbd.RBD.rename

    def rename_twice(rbd_: Any, *args: Any) -> None:
        monkeypatch.undo()
        renamed(rbd_, *args)
        move_away(ioctx, image_name)
        if third:
            rbd_.create(ioctx, image_name, MIB)

    replaced = await managed.management.replaced_by(new, parent, name, 0)
    monkeypatch.setattr(rbd.RBD, "rename", rename_twice)
    with refused(errno.ENOENT) if third else contextlib.nullcontext():
        await managed.management.rename(new, parent, name, 0, replaced)
    assert (await managed.find(f"{image_name}-mine")).image_id == new.image_id
    assert old.image_id in [image["id"] for image in rbd.RBD().trash_list(ioctx)]
    assert not await managed.exists(f"{image_name}-new")
    assert await managed.exists(image_name) == third
    if third:
        kept = await managed.find(image_name)
        assert kept.size == MIB
        assert f"{kept.image_id} has the new name" in caplog.text


async def test_what_is_renamed_by_mistake_is_told_of(
    managed: Managed, ioctx: Any, image_name: str, monkeypatch: Any, caplog: Any
) -> None:
    entry, renamed = await managed.create(image_name), rbd.RBD.rename

    def swap(rbd_: Any, *args: Any) -> None:
        monkeypatch.undo()
        move_away(ioctx, image_name)
        rbd_.create(ioctx, image_name, MIB)
        renamed(rbd_, *args)

    monkeypatch.setattr(rbd.RBD, "rename", swap)
    with refused(errno.ENOENT):
        await rename(managed, entry)
    other = await managed.find("new-name")
    assert other.size == MIB
    assert f"{other.image_id} has the new name" in caplog.text
    assert (await managed.find(f"{image_name}-mine")).image_id == entry.image_id
    rbd.RBD().remove(ioctx, "new-name")


async def test_an_image_is_removed_again_and_again(
    managed: Managed, ioctx: Any, image_name: str
) -> None:
    """Those of the same name that are in the trash already stay there."""
    removed = set()
    for _ in range(3):
        removed.add((await managed.create(image_name)).image_id)
        await managed.unlink(image_name)
        assert not await managed.exists(image_name)
    trash = {image["id"] for image in rbd.RBD().trash_list(ioctx) if image["name"] == image_name}
    assert trash == removed


async def test_nobody_reads_all_of_the_trash_for_one_image(
    managed: Managed, image_name: str, monkeypatch: Any
) -> None:
    """It may have thousands, and be read for each of them that a script removes."""
    pages: list[object] = []
    omap_page = trash_changes._omap_page

    def counted(*args: Any) -> Any:
        pages.append(args)
        return omap_page(*args)

    monkeypatch.setattr(trash_changes, "_omap_page", counted)
    await managed.create(image_name)
    await managed.unlink(image_name)
    old, new = await managed.create(image_name), await managed.create(f"{image_name}-new")
    name, parent = os.fsencode(image_name), managed.parent
    replaced = await managed.management.replaced_by(new, parent, name, 0)
    assert replaced is not None
    assert replaced.key == old.key
    await managed.management.rename(new, parent, name, 0, replaced)
    assert (await managed.find(image_name)).key == new.key
    assert pages == []


async def test_a_name_that_a_third_one_has_when_the_wrong_one_comes_back(
    managed: Managed, ioctx: Any, image_name: str, monkeypatch: Any, caplog: Any
) -> None:
    """It stays in the trash, and the log says so."""
    entry = await managed.create(image_name)
    directory_name = directory_changes.directory_name

    def swap(*_args: Any) -> None:
        put_into_the_trash(ioctx, image_name)
        rbd.RBD().create(ioctx, image_name, MIB)

    def take_the_name(*args: Any) -> Any:
        rbd.RBD().create(ioctx, image_name, 2 * MIB)
        return directory_name(*args)

    monkeypatch.setattr(trash_changes, "refuse_renamed", swap)
    monkeypatch.setattr(trash_changes, "directory_name", take_the_name)
    with refused(errno.ENOENT):
        await managed.management.unlink(entry)
    assert (await managed.find(image_name)).size == 2 * MIB
    trash = {image["id"] for image in rbd.RBD().trash_list(ioctx) if image["name"] == image_name}
    (wrong,) = trash - {entry.image_id}
    assert wrong in caplog.text.partition("rbd trash restore ")[2]


async def test_a_snapshot_that_got_the_name_meanwhile_keeps_it(
    managed: Managed, ioctx: Any, image_name: str
) -> None:
    await managed.create(image_name)
    snapshot = await managed.link(image_name, f"{image_name}@s")
    with rbd.Image(ioctx, image_name) as image:
        image.rename_snap("s", "mine")
        image.create_snap("s")
    with refused(errno.ENOENT):
        await managed.management.rename(snapshot, managed.parent, os.fsencode(f"{image_name}@t"), 0)
    with rbd.Image(ioctx, image_name) as image:
        assert sorted(snap["name"] for snap in image.list_snaps()) == ["mine", "s"]


async def test_what_got_the_name_of_a_clone_meanwhile_stays(
    managed: Managed, ioctx: Any, image_name: str, monkeypatch: Any
) -> None:
    """What is no clone at all is not the one that was made."""
    rbd.RBD().create(ioctx, image_name, MIB)
    snapshot = await managed.link(image_name, f"{image_name}@s")
    clone, name = directory_changes.clone_snapshot, f"{image_name}-clone"

    def clone_and_swap(*args: Any) -> None:
        clone(*args)
        move_away(ioctx, name)
        rbd.RBD().create(ioctx, name, MIB)

    clones = Clones(managed.cluster, managed.catalog, managed.management, None)
    monkeypatch.setattr(directory_changes, "clone_snapshot", clone_and_swap)
    with refused(errno.ENOENT):
        await clones.clone(snapshot, managed.parent, os.fsencode(name), lambda: None)
    assert (await managed.find(name)).size == MIB


async def test_the_trash_keeps_what_is_removed_for_as_long_as_the_cluster_says(
    ceph: Ceph, pool: str, image_name: str
) -> None:
    settings = CephSettings(
        "admin", ceph.conf, pairs=(("rbd_move_to_trash_on_remove_expire_seconds", "3600"),)
    )
    async with Cluster.connect(settings, AioBridge(), 10) as cluster:
        managed = await managed_as(cluster, pool)
        await managed.create(image_name)
        await managed.unlink(image_name)
    ceph.rbd("trash", "purge", "--no-progress", pool)
    assert image_name in trashed(ceph, pool)


async def test_an_image_in_use_is_not_removed(
    ceph: Ceph, managed: Managed, ioctx: Any, pool: str, image_name: str
) -> None:
    await managed.create(image_name)
    with rbd.Image(ioctx, image_name) as image:
        with refused(errno.EBUSY):
            await managed.unlink(image_name)
        image.lock_acquire(rbd.RBD_LOCK_MODE_EXCLUSIVE)
        with refused(errno.EBUSY):
            await managed.unlink(image_name)
        assert image.is_exclusive_lock_owner()
    ceph.rbd("lock", "add", f"{pool}/{image_name}", "mine")
    for change in (
        managed.unlink(image_name),
        managed.rename(image_name, f"{image_name}-2"),
        managed.link(image_name, f"{image_name}@s"),
    ):
        with refused(errno.EBUSY):
            await change
    assert await managed.exists(image_name)
    assert image_name not in trashed(ceph, pool)


async def test_a_snapshot_is_taken_and_removed(
    ceph: Ceph, managed: Managed, ioctx: Any, pool: str, image_name: str
) -> None:
    await managed.create(image_name)
    with rbd.Image(ioctx, image_name) as image:
        image.resize(MIB)
        image.lock_acquire(rbd.RBD_LOCK_MODE_EXCLUSIVE)
        managed.catalog.changed(await managed.find(image_name))
        snapshot = await managed.link(image_name, f"{image_name}@before")
        assert (snapshot.snap, snapshot.size) == ("before", MIB)
        assert image.snap_get_id("before") == snapshot.key.snap_id
        with refused(errno.EEXIST):
            await managed.link(image_name, f"{image_name}@before")
        image.protect_snap("before")
        with refused(errno.EBUSY):
            await managed.unlink(f"{image_name}@before")
        image.unprotect_snap("before")
        await managed.unlink(f"{image_name}@before")
        assert list(image.list_snaps()) == []
        assert image.is_exclusive_lock_owner()
    assert not await managed.exists(f"{image_name}@before")


async def test_only_snapshots_are_links(managed: Managed, image_name: str) -> None:
    image = await managed.create(image_name)
    other = await managed.create(f"{image_name}-other")
    await managed.link(image_name, f"{image_name}@s")
    namespace = await managed.mkdir(f"{image_name}-ns")
    for target, new, parent, code in (
        (image_name, f"{image_name}-hard", None, errno.EPERM),
        (image_name, f"{image_name}@id:1", None, errno.EPERM),
        (image_name, f"{other.image}@s", None, errno.EXDEV),
        (image_name, f"{image_name}@s", namespace, errno.EXDEV),
        (f"{image_name}@s", f"{image_name}@t", None, errno.EPERM),
        (f"{image_name}-ns", f"{image_name}@t", None, errno.EPERM),
    ):
        with refused(code):
            await managed.link(target, new, parent)
    snaps = (await managed.catalog.attributes(image)).snaps
    assert [snap.name for snap in snaps] == ["s"]


async def test_an_image_is_renamed_while_it_is_open(
    managed: Managed, ioctx: Any, image_name: str
) -> None:
    entry = await managed.create(image_name)
    with rbd.Image(ioctx, image_name) as image:
        image.resize(MIB)
        await managed.rename(image_name, f"{image_name}-2", flags=RENAME_NOREPLACE)
        image.lock_acquire(rbd.RBD_LOCK_MODE_EXCLUSIVE)
        image.write(b"x", 0)
        await managed.rename(f"{image_name}-2", f"{image_name}-3")
        image.write(b"y", 1)
        assert image.read(0, 2) == b"xy"
    assert not await managed.exists(image_name)
    assert (await managed.find(f"{image_name}-3")).key == entry.key


async def test_renaming_replaces_nothing(managed: Managed, image_name: str) -> None:
    first, second = await managed.create(image_name), await managed.create(f"{image_name}-2")
    namespace = await managed.mkdir(f"{image_name}-ns")
    for snap in "ab":
        await managed.link(image_name, f"{image_name}@{snap}")
    for name, new, parent, flags, code in (
        (image_name, f"{image_name}-2", None, 0, errno.EEXIST),
        (image_name, f"{image_name}-ns", None, 0, errno.EEXIST),
        (f"{image_name}@a", f"{image_name}@b", None, 0, errno.EEXIST),
        (image_name, f"{image_name}-2", None, RENAME_EXCHANGE, errno.EINVAL),
        (image_name, image_name, namespace, 0, errno.EXDEV),
        (image_name, image_name, POOL_LIST, 0, errno.EXDEV),
        (f"{image_name}@a", f"{image_name}-2@a", None, 0, errno.EXDEV),
        (f"{image_name}@a", f"{image_name}-3", None, 0, errno.EPERM),
        (image_name, f"{image_name}@c", None, 0, errno.EPERM),
        (f"{image_name}-ns", f"{image_name}-ns2", None, 0, errno.EPERM),
        (image_name, "n" * 256, None, 0, errno.ENAMETOOLONG),
    ):
        with refused(code):
            await managed.rename(name, new, parent, flags)
    await managed.rename(image_name, image_name)
    assert (await managed.find(image_name)).key == first.key
    assert (await managed.find(f"{image_name}-2")).key == second.key
    snap_id = (await managed.find(f"{image_name}@a")).key.snap_id
    await managed.rename(f"{image_name}@a", f"{image_name}@c")
    assert (await managed.find(f"{image_name}@c")).key.snap_id == snap_id
    assert not await managed.exists(f"{image_name}@a")


async def test_namespaces(ceph: Ceph, managed: Managed, pool: str, image_name: str) -> None:
    namespace = await managed.mkdir(image_name)
    assert image_name in ceph.rbd("namespace", "ls", pool)
    with refused(errno.EEXIST):
        await managed.mkdir(image_name)
    with refused(errno.EEXIST):
        await managed.create(image_name)
    image = await managed.create("vm", namespace)
    assert image.namespace == image_name
    with refused(errno.ENOTEMPTY):
        await managed.rmdir(image_name)
    await managed.management.unlink(image)
    with refused(errno.ENOTEMPTY):
        await managed.rmdir(image_name)
    ceph.rbd("trash", "purge", "--no-progress", f"{pool}/{image_name}")
    await managed.rmdir(image_name)
    assert not await managed.exists(image_name)


async def test_namespaces_belong_into_pools(managed: Managed, image_name: str) -> None:
    image = await managed.create(image_name)
    namespace = await managed.mkdir(f"@{image_name}")
    assert namespace.namespace == image_name
    for name, parent, code in (
        ("x", namespace, errno.EPERM),
        ("x", POOL_LIST, errno.EPERM),
        (image_name, None, errno.EEXIST),
        ("%FF", None, errno.EINVAL),
        ("x%00", None, errno.EINVAL),
        ("%zz", None, errno.EINVAL),
        ("n" * 256, None, errno.ENAMETOOLONG),
    ):
        with refused(code):
            await managed.mkdir(name, parent)
    with refused(errno.EPERM):
        await managed.create("x", POOL_LIST)
    with refused(errno.ENOTDIR):
        await managed.management.remove_namespace(image)
    with refused(errno.EPERM):
        await managed.management.remove_namespace(managed.parent)
    with refused(errno.EISDIR):
        await managed.management.unlink(namespace)
    await managed.management.remove_namespace(namespace)


async def test_a_client_that_may_only_read(
    ceph: Ceph, managed: Managed, pool: str, image_name: str
) -> None:
    await managed.create(image_name)
    await managed.link(image_name, f"{image_name}@s")
    await managed.mkdir(f"{image_name}-ns")
    async with Cluster.connect(CephSettings("ro", ceph.conf), AioBridge(), 10) as cluster:
        reader = await managed_as(cluster, pool)
        for change in (
            reader.create(f"{image_name}-2"),
            reader.link(image_name, f"{image_name}@t"),
            reader.rename(image_name, f"{image_name}-2"),
            reader.rename(f"{image_name}@s", f"{image_name}@t"),
            reader.unlink(image_name),
            reader.unlink(f"{image_name}@s"),
            reader.mkdir(f"{image_name}-ns2"),
            reader.rmdir(f"{image_name}-ns"),
        ):
            with refused(errno.EROFS):
                await change
    assert await managed.exists(f"{image_name}@s")
    assert await managed.exists(f"{image_name}-ns")
