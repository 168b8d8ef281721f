"""The cluster that is measured on, and the images in it."""

from __future__ import annotations

import contextlib
import os
import random
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from benchmarks.process import CHECKOUT, BenchError, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20
IMAGES = 8
IMAGE_BYTES = 128 * MIB
SNAPSHOT_BYTES = 1024 * MIB
THIN_BYTES = 100 * 1024 * MIB
THIN_DATA_BYTES = 256 * MIB
LISTED_IMAGES = 1000
LISTED_SNAPSHOTS = 400
LISTED = LISTED_IMAGES + LISTED_SNAPSHOTS


@dataclass(frozen=True)
class Bench:
    """Where to measure, for how long, and the images: each is made when it is first asked for.

    Attributes:
        conf: configuration file of the cluster, with librbd's cache off.
        work: scratch directory, for mounts, logs and reference data.
        copies: scratch directory in memory, for the copies that cp makes.
        osd_pids: the OSDs' processes; empty where they are not known.
        seconds: run time of one fio measurement.
        limit_s: a command that takes longer is ended.
    """

    conf: Path
    pool: str
    work: Path
    copies: Path
    osd_pids: tuple[int, ...]
    seconds: float
    limit_s: float

    def rbd(self, *args: object) -> str:
        return run(["rbd", "-c", self.conf, *args])

    @cached_property
    def images(self) -> list[str]:
        """Images full of data, so that no read is answered without the OSD reading."""
        names = [f"image{number}" for number in range(IMAGES)]
        data = self._data_file("image.raw", IMAGE_BYTES)
        for name in names:
            self.rbd("import", "--no-progress", data, f"{self.pool}/{name}")
        return names

    @cached_property
    def full_snapshot(self) -> tuple[str, Path]:
        """A snapshot of SNAPSHOT_BYTES, all data, and a file with the same bytes."""
        return self._snapshot("full", SNAPSHOT_BYTES)

    @cached_property
    def plain_snapshot(self) -> tuple[str, Path]:
        """As full_snapshot, with as much data as thin_snapshot has."""
        return self._snapshot("plain", THIN_DATA_BYTES)

    def _snapshot(self, name: str, size_bytes: int) -> tuple[str, Path]:
        data = self._data_file(f"{name}.raw", size_bytes)
        self.rbd("import", "--no-progress", data, f"{self.pool}/{name}")
        self.rbd("snap", "create", "--no-progress", f"{self.pool}/{name}@s")
        return f"{name}@s", data

    @cached_property
    def thin_snapshot(self) -> tuple[str, Path]:
        """As full_snapshot, but thin: data in 8 places, and a sparse file with the same bytes."""
        data = self.work / "thin.raw"
        source = random.Random(2)
        with connected(self.conf, self.pool) as (rbd, ioctx), data.open("wb") as file:
            # As the cluster is configured, with object map and fast-diff.
            rbd.RBD().create(ioctx, "thin", THIN_BYTES)
            file.truncate(THIN_BYTES)
            with rbd.Image(ioctx, "thin") as image:
                for place in range(0, THIN_BYTES, THIN_BYTES // 8):
                    for off in range(place, place + THIN_DATA_BYTES // 8, MIB):
                        chunk = source.randbytes(MIB)
                        image.write(chunk, off)
                        os.pwrite(file.fileno(), chunk, off)
                image.create_snap("s")
        return "thin@s", data

    @cached_property
    def listing_pool(self) -> str:
        """The name of a pool with LISTED_IMAGES images and LISTED_SNAPSHOTS snapshots."""
        name = f"{self.pool}-ls"
        make_pool(self.conf, name)
        with connected(self.conf, name) as (rbd, ioctx):

            def make(number: int) -> None:
                image = f"vm{number:04}"
                # Layering alone: no object map to be made for each.
                rbd.RBD().create(ioctx, image, 1 << 30, old_format=False, features=1)
                if number < LISTED_SNAPSHOTS:
                    with rbd.Image(ioctx, image) as opened:
                        opened.create_snap("s")

            with ThreadPoolExecutor(16) as threads:
                list(threads.map(make, range(LISTED_IMAGES)))
        return name

    def _data_file(self, name: str, size_bytes: int) -> Path:
        path = self.work / name
        source = random.Random(1)
        with path.open("wb") as file:
            for _ in range(size_bytes // MIB):
                file.write(source.randbytes(MIB))
        return path


@contextlib.contextmanager
def connected(conf: Path, pool: str) -> Iterator[tuple[Any, Any]]:
    """The module rbd, and an I/O context of the pool."""
    # Debian's bindings: a process of `rbd` for each image or write would take minutes.
    try:
        import rados
        import rbd
    except ImportError as exc:
        raise BenchError(f"{exc}: run it with /usr/bin/python3") from None
    with rados.Rados(conffile=str(conf)) as client, client.open_ioctx(pool) as ioctx:
        yield rbd, ioctx


def make_pool(conf: Path, name: str) -> None:
    run(["ceph", "-c", conf, "osd", "pool", "create", name])
    run(["rbd", "-c", conf, "pool", "init", name])


@contextlib.contextmanager
def cluster(directory: Path | None, work: Path) -> Iterator[Path]:
    """The directory of a running cluster of contrib/cluster: the one given, or one for now."""
    if directory is not None:
        if not (directory / "ceph.conf").exists():
            raise BenchError(f"{directory} is no directory of contrib/cluster")
        yield directory
        return
    script, directory = CHECKOUT / "contrib" / "cluster", work / "cluster"
    run([script, "start", directory])
    try:
        yield directory
    finally:
        run([script, "stop", directory])


def configuration(directory: Path, work: Path) -> Path:
    """A copy of the cluster's configuration file, with librbd's cache off."""
    conf = work / "ceph.conf"
    conf.write_text((directory / "ceph.conf").read_text() + "\n[client]\nrbd cache = false\n")
    # Of all that are started from here, and of fio, which has no option for it.
    os.environ["CEPH_CONF"] = str(conf)
    return conf


@contextlib.contextmanager
def scratch_pool(conf: Path) -> Iterator[str]:
    """A pool for this run; it and its companion for listings are removed."""
    name = f"bench-{uuid.uuid4().hex[:8]}"
    make_pool(conf, name)
    try:
        yield name
    finally:
        pools = run(["ceph", "-c", conf, "osd", "pool", "ls"]).split()
        for pool in {name, f"{name}-ls"} & set(pools):
            remove = ["rm", pool, pool, "--yes-i-really-really-mean-it"]
            run(["ceph", "-c", conf, "osd", "pool", *remove])


def osd_pids(directory: Path) -> tuple[int, ...]:
    return tuple(int(path.read_text()) for path in sorted(directory.glob("osd.*.pid")))
