"""The scenes: what is in a pool, and what is done to its mount."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from benchmarks.ceph import MIB, scratch_pool
from benchmarks.process import BenchError, run
from benchmarks.scale.growth import Growth, growths
from benchmarks.scale.population import (
    TIB,
    check_snapshots,
    image_name,
    make_images,
    make_snapshots,
    take_snapshots,
)
from benchmarks.scale.vitals import watched

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from benchmarks.scale.vitals import Process, Row

LISTINGS = 4
FEW = 20


@dataclass(frozen=True)
class Stage:
    """Where the scenes play, and how large they are.

    Attributes:
        images: in a pool.
        snapshots: so many images, and so many snapshots of each.
        open_files: images of 1 TiB that are open at once.
        idle_s: for how long they are.
        tolerance_mib: what a process may have more at the end of the repetitions.
    """

    conf: Path
    work: Path
    program: Path
    options: Sequence[str]
    images: int
    snapshots: int
    open_files: int
    idle_s: float
    repetitions: int
    tolerance_mib: float


@dataclass(frozen=True)
class Played:
    """What a scene has come to.

    Attributes:
        about: what it was of.
        samples: the server and the keeper after each repetition.
    """

    name: str
    about: str
    rows: list[Row] = field(default_factory=list)
    samples: list[tuple[Process, Process]] = field(default_factory=list)
    growths: list[Growth] = field(default_factory=list)


def images(stage: Stage) -> Played:
    """A pool of many images, listed."""
    about = f"{stage.images:,} images of 1 MiB, of default features, made by librbd"
    with scratch_pool(stage.conf) as pool:
        make_images(stage.conf, pool, stage.images, MIB)
        return Played("images", about, _listings("images", stage, pool, stage.images))


def snapshots(stage: Stage) -> Played:
    """Images with as many snapshots each, listed."""
    count = stage.snapshots
    about = (
        f"{count:,} images with {count:,} snapshots each: those of the first were taken by librbd, "
        "the others have its records copied; without object maps"
    )
    with scratch_pool(stage.conf) as pool:
        make_snapshots(stage.conf, pool, count, count)
        check_snapshots(stage.conf, pool, image_name(count - 1), count)
        rows = _listings("snapshots", stage, pool, count * (count + 1))
        return Played("snapshots", about, rows)


def open_files(stage: Stage) -> Played:
    """Large images, open for writing and left alone."""
    count, idle_s = stage.open_files, stage.idle_s
    about = f"{count:,} images of 1 TiB, empty, of default features"
    with scratch_pool(stage.conf) as pool:
        make_images(stage.conf, pool, count, TIB)
        with (
            watched("open", stage.program, stage.conf, pool, stage.work, stage.options) as mount,
            contextlib.ExitStack() as files,
        ):
            with mount.measured("open each for writing"):
                for number in range(count):
                    file = os.open(mount.path / image_name(number), os.O_RDWR)
                    files.callback(os.close, file)
            with mount.measured(f"idle for {idle_s:g} s"):
                time.sleep(idle_s)
            with mount.measured("close each"):
                files.close()
    return Played("open", about, mount.rows)


def repetitions(stage: Stage) -> Played:
    """A bit of everything, again and again."""
    count = stage.repetitions
    about = (
        f"{FEW} images, and {count:,} times: ls -l, df, an image and a snapshot opened and read, "
        "an image made, written and removed, a snapshot taken and removed"
    )
    options = [*stage.options, "manage=snapshots"]
    with scratch_pool(stage.conf) as pool:
        make_images(stage.conf, pool, FEW, 64 * MIB)
        take_snapshots(stage.conf, pool, FEW)
        with watched("repeat", stage.program, stage.conf, pool, stage.work, options) as mount:
            samples = []
            # In two rows: the first is what has to settle.
            for what, numbers in _halves(count):
                with mount.measured(what):
                    for number in numbers:
                        repetition(mount.path, number)
                        samples.append(mount.look())
    return Played("repeat", about, mount.rows, samples, growths(samples, stage.tolerance_mib))


SCENES: dict[str, Callable[[Stage], Played]] = {
    "images": images,
    "snapshots": snapshots,
    "open": open_files,
    "repeat": repetitions,
}


def _halves(count: int) -> list[tuple[str, range]]:
    first = max(1, count // 5)
    return [
        (f"repetitions 1 to {first:,}", range(first)),
        (f"repetitions {first + 1:,} to {count:,}", range(first, count)),
    ]


def _listings(scene: str, stage: Stage, pool: str, expected: int) -> list[Row]:
    with watched(scene, stage.program, stage.conf, pool, stage.work, stage.options) as mount:
        for command, lines in ((["ls"], expected), (["ls", "-l"], expected + 1)):
            name = f"`{' '.join(command)}`"
            for what, times in ((f"{name}, cold", 1), (f"{name}, {LISTINGS} times", LISTINGS)):
                with mount.measured(what):
                    for _ in range(times):
                        _list([*command, str(mount.path)], lines)
        with mount.measured("`ls`, and `stat` of each"):
            for name in sorted(os.listdir(mount.path)):
                os.stat(mount.path / name)
    return mount.rows


def _list(command: list[str], expected: int) -> None:
    found = run(command).count("\n")
    if found != expected:
        raise BenchError(f"{' '.join(command)} prints {found} lines, not {expected}")


def repetition(directory: Path, number: int) -> None:
    """Once of everything; BenchError where something is not as it should be."""
    image, snapshot = directory / image_name(1), directory / f"{image_name(1)}@s000"
    with os.scandir(directory) as entries:
        sizes = {entry.name: entry.stat().st_size for entry in entries}
    if len(sizes) != 2 * FEW or set(sizes.values()) != {64 * MIB}:
        raise BenchError(f"repetition {number}: the mount has {sizes}")
    for file in (image, snapshot):
        with file.open("rb") as opened:
            opened.read(4096)
    new = directory / f"new{number}"
    new.write_bytes(b"new" * 4096)
    if new.read_bytes() != b"new" * 4096:
        raise BenchError(f"repetition {number}: {new.name} has not what was written")
    new.unlink()
    taken = directory / f"{image.name}@r{number}"
    taken.hardlink_to(image)
    taken.unlink()
    os.statvfs(directory)
