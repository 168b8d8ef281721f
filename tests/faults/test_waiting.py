"""What waits for the cluster is told of once, with why, and once when it goes on."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.support.conditions import eventually
from tests.support.images import MIB, import_image, random_bytes
from tests.support.mounts import RBDFS, opened
from tests.support.quota import pool_with_a_quota
from tests.support.servers import ask

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount, Mounting

WAITS_S = 60.0
LOCKER = """
import sys, rados, rbd
with rados.Rados(conffile=sys.argv[1], rados_id="admin") as cluster:
    with cluster.open_ioctx(sys.argv[2]) as ioctx, rbd.Image(ioctx, sys.argv[3]) as image:
        image.write(b"x", 0)
        print(cluster.get_addrs(), flush=True)
        sys.stdin.read()
"""

both_data_paths = pytest.mark.parametrize("mount_options", ["native", "python"], indirect=True)


def told(mount: Mount, text: str) -> list[str]:
    """What the log says with `text` in it, without time and tag."""
    found = [line for line in mount.log_text.splitlines() if text in line and "DEBUG" not in line]
    return [line.partition("): ")[2] for line in found]


def first_told(mount: Mount, text: str) -> str:
    return eventually(lambda: told(mount, text), WAITS_S, text)[0]


@contextlib.contextmanager
def away(ceph: Ceph, *, noticed: bool = True) -> Iterator[None]:
    """The only OSD is down for the time of the block, which the monitors may not know."""
    ceph.signal("osd.0", signal.SIGSTOP)
    try:
        if noticed:
            ceph.ceph("osd", "down", "0")
        yield
    finally:
        ceph.signal("osd.0", signal.SIGCONT)


@pytest.mark.parametrize("timeout", [None, 5])
def test_an_osd_that_is_away(
    bluestore: Ceph, image_name: str, mounting: Mounting, timeout: int | None
) -> None:
    """Also with -o timeout, where each look at an open file fails after a while."""
    options = [] if timeout is None else ["-o", f"timeout={timeout}"]
    where = replace(mounting, ceph=bluestore)
    with (
        bluestore.temporary_pool() as pool,
        where(pool, *options, lifetime_s=180) as mount,
        ThreadPoolExecutor(1) as threads,
    ):
        import_image(bluestore, f"{pool}/{image_name}", random_bytes(MIB))
        image = f"{pool}/{image_name}"
        # Of the copies that processes have which are started meanwhile.
        mount.allow_log(r"flush: \[Errno 110\]")
        with opened(mount.file(image_name), os.O_RDONLY | os.O_DIRECT) as file:
            with away(bluestore):
                if timeout is None:
                    read = threads.submit(os.pread, file, 4096, 0)
                waits = first_told(mount, "for the cluster since")
                text = rf"{image} waits for the cluster since \d+ s: osd\.0 .*is down"
                assert re.fullmatch(text, waits)
                status = ask(mount, "status")
                (waiting,) = (each for each in status["waiting"] if each["image"] == image)
                assert waiting["seconds"] >= 10
                assert "is down" in waiting["reason"]
                assert timeout is not None or status["oldest_request_seconds"] > 2
            over = first_told(mount, "no longer")
            assert over.startswith(f"{image} no longer waits for the cluster, after ")
            if timeout is None:
                assert read.result(WAITS_S) == random_bytes(4096)
            eventually(lambda: ask(mount, "status")["waiting"] == [], what="nothing that waits")
        assert len(told(mount, "for the cluster since")) == 1
        assert not told(mount, "cannot tell whether")


def test_an_osd_that_nobody_misses(bluestore: Ceph, image_name: str, mounting: Mounting) -> None:
    """Monitors wait for longer than a line of the log does; who has the lock, the OSD knows."""
    where = replace(mounting, ceph=bluestore)
    with (
        bluestore.temporary_pool() as pool,
        where(pool, lifetime_s=180) as mount,
        ThreadPoolExecutor(1) as threads,
    ):
        import_image(bluestore, f"{pool}/{image_name}", random_bytes(MIB))
        with opened(mount.file(image_name), os.O_RDONLY | os.O_DIRECT) as file:
            with away(bluestore, noticed=False):
                read = threads.submit(os.pread, file, 4096, 0)
                waits = first_told(mount, "for the cluster since")
                assert waits.endswith("the cluster does not say why")
            first_told(mount, "no longer waits for the cluster, after ")
            assert read.result(WAITS_S) == random_bytes(4096)


def test_who_waits_gives_up(bluestore: Ceph, image_name: str, mounting: Mounting) -> None:
    """The cluster is as silent as before: nothing says that it answers."""
    where = replace(mounting, ceph=bluestore)
    with bluestore.temporary_pool() as pool, where(pool, lifetime_s=180) as mount:
        import_image(bluestore, f"{pool}/{image_name}", random_bytes(MIB))
        with away(bluestore):
            command = [str(RBDFS), "stat", str(mount.file(image_name))]
            with subprocess.Popen(command, stdout=subprocess.DEVNULL) as stat:
                first_told(mount, "for the cluster since")
                stat.kill()
            first_told(mount, "no longer waits for the cluster, after ")
            assert not told(mount, "answers")


def test_a_full_pool(ceph: Ceph, image_name: str, mounting: Mounting) -> None:
    pool = f"full-{image_name}"
    with pool_with_a_quota(ceph, pool) as set_quota:
        import_image(ceph, f"{pool}/{image_name}", random_bytes(MIB))
        with (
            mounting(pool, lifetime_s=180) as mount,
            ThreadPoolExecutor(1) as threads,
            opened(mount.file(image_name), os.O_RDWR | os.O_DSYNC) as file,
        ):
            set_quota(1)

            def write_until_it_waits() -> int:
                # The client hears of the quota after the monitors.
                while not told(mount, "for the cluster since"):
                    os.pwrite(file, b"x", 0)
                return 1

            write = threads.submit(write_until_it_waits)
            waits = first_told(mount, "for the cluster since")
            assert f"pool '{pool}' is full" in waits
            set_quota(0)
            assert write.result(WAITS_S) == 1
            first_told(mount, "no longer waits")


@both_data_paths
def test_a_lock_that_is_held(ceph: Ceph, pool: str, image_name: str, mounting: Mounting) -> None:
    """Its owner hangs: it does not hand the lock over, nor is it dead yet."""
    import_image(ceph, f"{pool}/{image_name}", random_bytes(MIB))
    command = [sys.executable, "-c", LOCKER, str(ceph.conf), pool, image_name]
    with (
        mounting(pool, "-o", "lock=auto", lifetime_s=180) as mount,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner,
        ThreadPoolExecutor(1) as threads,
    ):
        assert owner.stdout is not None
        address = owner.stdout.readline().decode().strip()
        file = os.open(mount.file(image_name), os.O_RDWR | os.O_DSYNC)
        owner.send_signal(signal.SIGSTOP)
        try:
            write = threads.submit(os.pwrite, file, b"x", 0)
            waits = first_told(mount, "for the cluster since")
            assert waits.endswith(f"locked by {address}")
        finally:
            owner.kill()
        assert write.result(WAITS_S) == 1
        os.close(file)
        first_told(mount, "no longer waits")
