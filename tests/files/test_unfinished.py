"""Images that grew when their host crashed, for a mount that looks at them again and again."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

import pytest
import rbd
import trio

from rbdfs.ceph.aio import AioBridge
from rbdfs.ceph.cluster import Cluster
from rbdfs.ceph.opener import PythonOpener
from rbdfs.config.ceph_settings import CephSettings
from rbdfs.files import unfinished
from rbdfs.files.data_path import PythonDataPath
from rbdfs.files.keeping import Unremembered
from rbdfs.files.table import HandleTable
from rbdfs.files.unfinished import UnfinishedFiles
from rbdfs.metadata.cache import MetadataCache
from rbdfs.metadata.stamps import GROWING
from rbdfs.model.entry import Entry, Key
from rbdfs.model.growth_mark import GrowthMark
from rbdfs.names.catalog import Catalog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import rados

    from tests.support.ceph import Ceph

ROOM = 64 << 20
DATA = b"grows"
DEADLINE_S = 60.0
EXCLUSIVE = rbd.RBD_LOCK_MODE_EXCLUSIVE


async def nobody_knows(_entry: Entry) -> None:
    """The kernel has no pages."""


@pytest.fixture
async def files(ceph: Ceph, pool: str) -> AsyncIterator[UnfinishedFiles]:
    with trio.fail_after(DEADLINE_S):
        async with Cluster.connect(CephSettings("admin", ceph.conf), AioBridge(), 10) as cluster:
            cache = MetadataCache(cluster)
            table = HandleTable(
                PythonDataPath(PythonOpener(cluster)), Unremembered(), lock_mode=EXCLUSIVE
            )
            catalog = Catalog(cluster, cache)
            yield UnfinishedFiles(cluster, catalog, cache, table, nobody_knows, exclusive=True)


@pytest.fixture
def root(ioctx: rados.Ioctx, pool: str) -> Entry:
    return Entry(Key(ioctx.get_pool_id(), ""), pool)


@pytest.fixture
def marked(ioctx: rados.Ioctx, image_name: str) -> str:
    """An image with room beyond its data."""
    rbd.RBD().create(ioctx, image_name, ROOM, old_format=False, features=61)
    with rbd.Image(ioctx, image_name) as image:
        image.write(DATA, 0)
        image.metadata_set(GROWING, GrowthMark(0, 0, ROOM).text(image.id()))
    return image_name


@pytest.fixture
def writer(ceph: Ceph, pool: str, marked: str) -> Iterator[rbd.Image]:
    """The image as another client has it, that has written to it and may be fenced."""
    with ceph.connect() as cluster, cluster.open_ioctx(pool) as ioctx:
        image = rbd.Image(ioctx, marked)
        image.lock_acquire(rbd.RBD_LOCK_MODE_EXCLUSIVE)
        yield image
        with contextlib.suppress(rbd.Error):
            image.close()


def size(ioctx: rados.Ioctx, name: str) -> int:
    with rbd.Image(ioctx, name, read_only=True) as image:
        return int(image.size())


async def test_one_whose_owner_is_succeeded_is_left_to_the_successor(
    ceph: Ceph,
    files: UnfinishedFiles,
    root: Entry,
    ioctx: rados.Ioctx,
    writer: rbd.Image,
    marked: str,
) -> None:
    """In the moment between the fence and the next open there is a lock, and nobody who watches."""
    (address,) = (watcher["addr"] for watcher in writer.watchers_list())
    await trio.to_thread.run_sync(ceph.blocklist_add, address)
    await files.look(root)
    assert size(ioctx, marked) == ROOM
    # The same lock for as long as a look waits for the next one: nobody comes.
    await files.look_again()
    assert size(ioctx, marked) == len(DATA)


async def test_one_that_was_just_closed_is_left_to_who_opens_it_next(
    files: UnfinishedFiles, root: Entry, ioctx: rados.Ioctx, writer: rbd.Image, marked: str
) -> None:
    """A server that makes way for another gives up lock and watch."""
    await files.look(root)
    writer.close()
    await files.look_again()
    assert size(ioctx, marked) == ROOM
    await files.look_again()
    assert size(ioctx, marked) == len(DATA)


async def test_the_kernel_forgets_the_size_though_who_opens_the_file_gives_up(
    files: UnfinishedFiles,
    root: Entry,
    ioctx: rados.Ioctx,
    marked: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who opens it next finds no mark: nobody else tells the kernel, which appends at the end."""
    forgotten: list[Entry] = []
    scope, trim = trio.CancelScope(), unfinished._finish

    async def forget(entry: Entry) -> None:
        await trio.lowlevel.checkpoint()
        forgotten.append(entry)

    def trim_and_give_up(*args: Any) -> int | None:
        trio.from_thread.run_sync(scope.cancel)
        return trim(*args)

    monkeypatch.setattr(unfinished, "_finish", trim_and_give_up)
    monkeypatch.setattr(files, "_invalidate", forget)
    entry = await files._catalog.find(root, os.fsencode(marked))
    with scope:
        await files.finish_one(entry)
    assert size(ioctx, marked) == len(DATA)
    assert [each.key for each in forgotten] == [entry.key]
