"""Names that another client gives to another image while one is moved: librbd goes by names."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

import pytest
import rbd

from rbdfs.ceph import live_migration, trash_changes
from rbdfs.metadata.cache import MetadataCache
from rbdfs.metadata.migration_record import State
from rbdfs.model.encoding import encode_string
from rbdfs.model.file_name import ImageSpec
from rbdfs.moves.interrupted import pending, undo
from rbdfs.moves.migration import Migration
from rbdfs.names.catalog import Catalog

if TYPE_CHECKING:
    from collections.abc import Callable

    from rbdfs.ceph.cluster import Cluster
    from rbdfs.model.entry import Entry
    from tests.support.ceph import Ceph

MIB = 1 << 20


async def entry_of(cluster: Cluster, pool: str, name: str) -> Entry:
    catalog = Catalog(cluster, MetadataCache(cluster))
    return await catalog.find(await catalog.directory(pool), name.encode())


def put_into_the_trash(ioctx: Any, name: str) -> None:
    rbd.RBD().trash_move(ioctx, name, 0)


def rename(ioctx: Any, name: str) -> None:
    rbd.RBD().rename(ioctx, name, f"{name}-mine")


def migrate(ioctx: Any, name: str) -> None:
    rbd.RBD().migration_prepare(ioctx, name, ioctx, f"{name}-mine")


@pytest.mark.parametrize("lose", [put_into_the_trash, rename, migrate])
@pytest.mark.parametrize("look", [None, "refuse_locked", "refuse_renamed"])
async def test_an_image_that_got_the_name_of_what_is_moved_stays(
    ceph: Ceph,
    cluster: Cluster,
    pool: str,
    ioctx: Any,
    image_name: str,
    monkeypatch: Any,
    look: str | None,
    lose: Callable[[Any, str], None],
) -> None:
    """It got it after *look*; None: before, while it is believed to be the one that it was."""
    rbd.RBD().create(ioctx, image_name, MIB)
    entry = await entry_of(cluster, pool, image_name)
    asked = getattr(live_migration, look) if look else None

    def swap(*args: Any) -> None:
        if asked is not None:
            asked(*args)
        lose(ioctx, image_name)
        rbd.RBD().create(ioctx, image_name, 2 * MIB)
        with rbd.Image(ioctx, image_name) as image:
            image.write(b"other", 0)

    with ceph.temporary_pool() as target, monkeypatch.context() as patched:
        if look is None:
            swap()
        else:
            patched.setattr(live_migration, look, swap)
        with pytest.raises(FileNotFoundError, match="name"):
            async with Migration.prepared(cluster, entry, ImageSpec(target, "", image_name)):
                pass
        assert ceph.rbd("ls", target) == ""
        with rbd.Image(ioctx, image_name, read_only=True) as image:
            assert image.id() != entry.image_id
            assert image.read(0, 5) == b"other"


async def test_what_got_the_name_of_an_unfinished_target_stays(
    cluster: Cluster, pool: str, ioctx: Any, image_name: str, monkeypatch: Any
) -> None:
    """It is removed for good, when somebody has looked whether it was written to."""
    rbd.RBD().create(ioctx, image_name, MIB)
    target = await entry_of(cluster, pool, image_name)
    moved = trash_changes.move_to_trash

    def swap(*args: Any) -> None:
        rename(ioctx, image_name)
        rbd.RBD().create(ioctx, image_name, 2 * MIB)
        moved(*args)

    with monkeypatch.context() as patched:
        patched.setattr(live_migration, "move_to_trash", swap)
        with pytest.raises(FileNotFoundError):
            live_migration.remove_unwritten(ioctx, target)
    with rbd.Image(ioctx, image_name, read_only=True) as image:
        assert image.size() == 2 * MIB
    # Whoever died while he removed it has got so far.
    put_into_the_trash(ioctx, f"{image_name}-mine")
    live_migration.remove_unwritten(ioctx, target)
    with pytest.raises(rbd.ImageNotFound):
        rbd.Image(ioctx, image_id=target.image_id, read_only=True)


def prepare_halfway(ioctx: Any, name: str, target: Any) -> None:
    """Leave a migration whose client died before there was a target: it has its source's name."""
    rbd.RBD().create(ioctx, name, MIB)
    with rbd.Image(ioctx, name, read_only=True) as image:
        oid = f"rbd_header.{image.id()}"
    rbd.RBD().migration_prepare(ioctx, name, target, name)
    with rbd.Image(target, name, read_only=True) as image:
        target_oid = f"rbd_header.{image.id()}"
    target.execute(target_oid, "rbd", "migration_remove", b"")
    rbd.RBD().remove(target, name)
    preparing = bytes([State.PREPARING]) + encode_string(b"")
    ioctx.execute(oid, "rbd", "migration_set_state", preparing)


async def migrations(cluster: Cluster, pool: str, name: str) -> list[Migration]:
    """Return those to images named *name*; there are others, of other tests."""
    every = (await pending(cluster, pool)).migrations
    return [migration for migration in every if migration.target.image == name]


@pytest.mark.parametrize("as_source", [True, False], ids=["source", "target"])
async def test_another_migration_that_got_the_name_of_one_is_not_undone(
    ceph: Ceph, cluster: Cluster, pool: str, ioctx: Any, image_name: str, as_source: bool
) -> None:
    """Somebody may be writing to its target: librbd finds either by the name."""
    with ceph.temporary_pool() as away, ceph.connect() as client, client.open_ioctx(away) as target:
        prepare_halfway(ioctx, image_name, target)
        (interrupted,) = await migrations(cluster, pool, image_name)
        other, place = (image_name, target) if as_source else (f"{image_name}-other", ioctx)
        rbd.RBD().create(ioctx, other, MIB)
        rbd.RBD().migration_prepare(ioctx, other, place, image_name)
        for _ in range(2):
            with pytest.raises(OSError, match=image_name) as caught:
                await undo(interrupted)
            assert caught.value.errno == (errno.EBUSY if as_source else errno.EEXIST)
        every = await migrations(cluster, pool, image_name)
        assert sorted(each.state or 0 for each in every) == [State.PREPARING, State.PREPARED]
        rbd.RBD().migration_abort(place, image_name)
        # Until the name is free again.
        rbd.RBD().rename(ioctx, other, f"{image_name}-free")
        await undo(interrupted)
        with rbd.Image(ioctx, image_name, read_only=True) as image:
            assert image.id() == interrupted.source_id
        assert await migrations(cluster, pool, image_name) == []
