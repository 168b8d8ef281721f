"""What copies is stopped when it is under way, even where librbd does not end."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from rbdfs.ceph.aio import AioBridge
from rbdfs.ceph.cluster import Cluster
from rbdfs.config.ceph_settings import CephSettings
from rbdfs.moves.copiers import Copier

if TYPE_CHECKING:
    from tests.support.ceph import Ceph


class Call:
    """A call of librbd that is told when to end, and ends by itself no later than the test."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.begun = trio.Event()
        self.end = threading.Event()
        self.told = False

    async def step(self) -> None:
        await self._cluster.steps.run("rbd", self)

    def __call__(self) -> None:
        trio.from_thread.run_sync(self.begun.set)
        self.told = self.end.wait(20.0)


@pytest.fixture
def call(cluster: Cluster) -> Call:
    return Call(cluster)


async def test_it_is_fenced_between_two_objects(
    cluster: Cluster, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Copier, "object_s", 60.0)
    fenced = trio.Event()

    async def fence(address: str) -> None:
        assert address == cluster.address
        fenced.set()
        call.end.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(Copier(cluster, fence).stoppable, call.step)
        await call.begun.wait()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            cluster.steps.progressed(1, 1)
            await trio.testing.wait_all_tasks_blocked()
            assert not fenced.is_set()
            cluster.steps.progressed(1, 2)
            await fenced.wait()
    assert call.told
    assert not cluster.steps.left_behind


async def test_one_that_ends_meanwhile_is_not_fenced(
    cluster: Cluster, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Copier, "object_s", 60.0)

    async def fence(address: str) -> None:
        raise AssertionError(address)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(Copier(cluster, fence).stoppable, call.step)
        await call.begun.wait()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.testing.wait_all_tasks_blocked()
        call.end.set()
    assert call.told
    assert not cluster.steps.left_behind


async def test_a_call_that_never_ends_is_left_behind(
    ceph: Ceph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Copier, "object_s", 0.1)
    monkeypatch.setattr(Copier, "end_s", 0.1)
    fenced = []

    async def fence(address: str) -> None:
        fenced.append(address)

    async with Cluster.connect(CephSettings("admin", ceph.conf), AioBridge(), 10) as cluster:
        call = Call(cluster)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Copier(cluster, fence).stoppable, call.step)
            await call.begun.wait()
            nursery.cancel_scope.cancel()
    assert fenced == [cluster.address]
    # Who uses its client still can.
    assert await cluster.may_fence()
    assert not call.told
    call.end.set()
