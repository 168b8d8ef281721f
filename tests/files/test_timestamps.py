"""When images are stamped: once for all who ask, and before the last writer is gone."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import trio
from trio.testing import wait_all_tasks_blocked

from rbdfs.ceph.aio import AioBridge
from rbdfs.ceph.cluster import Cluster
from rbdfs.ceph.opener import PythonOpener
from rbdfs.config.ceph_settings import CephSettings
from rbdfs.files.data_path import PythonDataPath
from rbdfs.files.interplay import released
from rbdfs.files.keeping import Unremembered
from rbdfs.files.table import HandleTable
from rbdfs.files.timestamps import Timestamps
from rbdfs.metadata.cache import MetadataCache
from rbdfs.metadata.stamps import HeaderStamps
from rbdfs.names.catalog import Catalog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

    from rbdfs.files.handle import Handle
    from tests.support.ceph import Ceph


class Image:
    """One that was written to."""

    read_only, changes = False, 1


class Shared:
    """What has it open."""

    entry = SimpleNamespace(image_id="id")

    def __init__(self, image: Image) -> None:
        self.image = image


class Stamps:
    """Counts them; each takes until `answers` is set."""

    def __init__(self) -> None:
        self.count = 0
        self.answers = trio.Event()

    async def stamp(self, _entry: Any) -> None:
        self.count += 1
        await self.answers.wait()


async def test_what_was_written_is_stamped_once() -> None:
    """A stat and the close beside it: a second stamp would move a time that was told already."""
    stamps, image = Stamps(), Image()
    timestamps = Timestamps(stamps)
    shared: Any = Shared(image)
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(timestamps.catch_up, shared)
        await wait_all_tasks_blocked()
        stamps.answers.set()
    assert stamps.count == 1
    assert not timestamps.behind(shared)
    image.changes += 1
    await timestamps.catch_up(shared)
    assert stamps.count == 2


@dataclass(frozen=True)
class Client:
    """Has new images open for writing, each written to since it was stamped."""

    catalog: Catalog
    timestamps: Timestamps
    table: HandleTable
    handles: list[Handle]

    async def times(self) -> list[int]:
        found = [await self.catalog.attributes(each.entry, newer=True) for each in self.handles]
        return [attributes.modify_ns for attributes in found]


@contextlib.asynccontextmanager
async def writing(ceph: Ceph, pool: str, names: list[str]) -> AsyncIterator[Client]:
    for name in names:
        ceph.rbd("create", "--size=1M", f"{pool}/{name}")
    async with Cluster.connect(CephSettings("admin", ceph.conf), AioBridge(), 10) as cluster:
        cache = MetadataCache(cluster)
        catalog, timestamps = Catalog(cluster, cache), Timestamps(HeaderStamps(cluster, cache))
        path = PythonDataPath(PythonOpener(cluster))
        table = HandleTable(path, Unremembered(), timestamps=timestamps, lock_mode=None)
        root = await catalog.directory(pool)
        entries = [await catalog.find(root, os.fsencode(name)) for name in names]
        try:
            handles = [await table.open(entry, 1, writable=True) for entry in entries]
            for handle in handles:
                await handle.write(0, b"new")
            yield Client(catalog, timestamps, table, handles)
        finally:
            await table.close()


async def test_the_last_writers_are_gone_when_all_is_stamped(
    ceph: Ceph, pool: str, image_name: str
) -> None:
    """A pool stands still while many files are closed: nobody would stamp them afterwards."""
    names = [f"{image_name}-{number}" for number in range(20)]
    async with writing(ceph, pool, names) as client:
        before = await client.times()
        async with trio.open_nursery() as nursery:
            with ceph.stalled("osd.0"):
                for handle in client.handles:
                    nursery.start_soon(client.table.release, handle.fh)
                await wait_all_tasks_blocked(cushion=1.0)
        assert all(map(int.__lt__, before, await client.times()))


async def test_the_last_writers_wait_for_their_stamps_without_an_end(
    ceph: Ceph, pool: str, image_name: str, mock_clock: MockClock
) -> None:
    """However long a pool stands still, a backup that goes by times has to see the changes."""
    names = [f"{image_name}-{number}" for number in range(20)]
    async with writing(ceph, pool, names) as client:
        before = await client.times()
        async with trio.open_nursery() as nursery:
            with ceph.stalled("osd.0"):
                for handle in client.handles:
                    nursery.start_soon(client.table.release, handle.fh)
                for _ in range(10):
                    await wait_all_tasks_blocked(cushion=0.01)
                    mock_clock.jump(600)
        assert all(map(int.__lt__, before, await client.times()))


async def test_what_was_written_before_an_image_is_opened_anew_is_stamped(
    ceph: Ceph, pool: str, image_name: str
) -> None:
    """As where its parent has moved, or for rm: what was not stamped yet is not forgotten."""
    async with writing(ceph, pool, [image_name]) as client:
        (handle,), (before,) = client.handles, await client.times()
        first = handle.shared.image
        for _ in range(2):
            async with released(client.table, handle.entry):
                pass
        assert handle.shared.image is not first
        await client.timestamps.catch_up(handle.shared)
        (after,) = await client.times()
        assert after > before
        # Nothing was written since.
        assert not client.timestamps.behind(handle.shared)
        await handle.write(0, b"newer")
        await client.timestamps.catch_up(handle.shared)
        assert await client.times() > [after]
