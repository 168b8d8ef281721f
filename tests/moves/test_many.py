"""`mv` of many images between pools at the same time, and what it costs everybody else."""

from __future__ import annotations

import os
import re
import threading
import time
from typing import TYPE_CHECKING

import rbd
import trio
from trio.testing import wait_all_tasks_blocked

from rbdfs.moves.turns import Turns
from tests.support import changed
from tests.support.conditions import eventually
from tests.support.images import MIB, export_image, random_bytes
from tests.support.moves import NOTICE_S, make, move, wait_until_done, whole_cluster

if TYPE_CHECKING:
    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount, Mounting

# Of objects so small that a copy takes seconds.
SMALL = 12
SIZE = 16 * MIB
MANY = 45


class Lister:
    """Lists a directory again and again, and remembers how long it took at most."""

    def __init__(self, mount: Mount, name: str) -> None:
        self.longest_s = 0.0
        self._path = mount.file(name)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Lister:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.is_set():
            begin = time.monotonic()
            os.listdir(self._path)
            self.longest_s = max(self.longest_s, time.monotonic() - begin)


def test_copies_leave_the_threads_to_others(
    ceph: Ceph, pools: tuple[str, str], mounting: Mounting, image_name: str
) -> None:
    """With two threads for all that has none of its own, as 40 for more than 40 moves."""
    hdd, ssd = pools
    names = [f"{image_name}-{number}" for number in range(4)]
    data = {
        name: make(ceph, f"{hdd}/{name}", snapshot=False, order=SMALL, size=SIZE) for name in names
    }
    program = changed.program(notice=NOTICE_S, threads=2)
    with whole_cluster(mounting, program=program, lifetime_s=120) as mount:
        for number, name in enumerate(names):
            move(mount.file(f"{hdd}/{name}"), mount.file(f"{ssd}/{name}"))
            # Nobody has waited for anybody's copy.
            assert number > 2 or " 90 %" not in mount.log_text
        assert sorted(os.listdir(mount.file(ssd))) == names
        assert os.listdir(mount.file(hdd)) == []
        for name in names:
            wait_until_done(mount, name)
        _check_copies(mount, 3)
    for name in names:
        assert export_image(ceph, f"{ssd}/{name}") == data[name]


def _check_copies(mount: Mount, at_once: int) -> None:
    """Assert from the log that no more than so many copies were under way at a time."""
    under_way: set[str] = set()
    for found in re.finditer(r"copiers: (migration of \S+ to \S+): +(\d+) %", mount.log_text):
        name, percent = found[1], int(found[2])
        (under_way.add if percent < 90 else under_way.discard)(name)
        assert len(under_way) <= at_once


def test_many_at_once(
    ceph: Ceph, pools: tuple[str, str], mounting: Mounting, image_name: str
) -> None:
    """Every mv is short, and so is ls beside them."""
    hdd, ssd = pools
    data = random_bytes(4096, seed=1)
    names = [f"{image_name}-{number:02}" for number in range(MANY)]
    with ceph.connect() as cluster, cluster.open_ioctx(hdd) as ioctx:
        for name in names:
            rbd.RBD().create(ioctx, name, MIB, features=rbd.RBD_FEATURE_LAYERING)
            with rbd.Image(ioctx, name) as image:
                image.write(data, 0)
    program = changed.program(notice=1)
    with whole_cluster(mounting, program=program, lifetime_s=120) as mount:
        threads = [
            threading.Thread(
                target=os.rename, args=(mount.file(f"{hdd}/{name}"), mount.file(f"{ssd}/{name}"))
            )
            for name in names
        ]
        with Lister(mount, "") as root:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            eventually(lambda: mount.log_text.count(": done\n") == MANY, 90, what="all done")
        assert root.longest_s < 1
        assert [mount.file(f"{ssd}/{name}").read_bytes()[:4096] for name in names] == [data] * MANY
        assert os.listdir(mount.file(hdd)) == []
        assert mount.alive


async def test_whose_turn_it_is() -> None:
    """The urgent ones go first; one that gives up waiting takes nobody's turn away."""
    turns, order = Turns(1), []
    given_up = trio.CancelScope()

    async def take(name: str, *, urgent: bool = False) -> None:
        async with turns.turn(urgent=urgent):
            order.append(name)

    async def give_up() -> None:
        with given_up:
            await take("given up", urgent=True)

    async with trio.open_nursery() as nursery, turns.turn(urgent=False):
        for name in ("second", "third"):
            nursery.start_soon(take, name)
            await wait_all_tasks_blocked()
        nursery.start_soon(give_up)
        await wait_all_tasks_blocked()
        given_up.cancel()
        await wait_all_tasks_blocked()
        nursery.start_soon(lambda: take("first", urgent=True))
        await wait_all_tasks_blocked()
        assert order == []
    assert order == ["first", "second", "third"]
    # One that is given the turn in the moment in which it gives up passes it on.
    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def late() -> None:
            with scope:
                await take("late")

        async with turns.turn(urgent=False):
            nursery.start_soon(late)
            await wait_all_tasks_blocked()
            nursery.start_soon(take, "last")
            await wait_all_tasks_blocked()
            scope.cancel()
    assert order[3:] in (["last"], ["late", "last"])
