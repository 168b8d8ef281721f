"""Who is measured: rbdfs, its peers that make files of images, and librbd itself as the limit.

Each serves the same images of one pool, with librbd's cache off, and is started for one
measurement and closed after it.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from benchmarks.process import run, server, terminate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from benchmarks.ceph import Bench


@dataclass(frozen=True)
class Served:
    """What a contender offers while it is up.

    Attributes:
        pids: the serving processes; empty where the client itself is one.
        files: the file of each image spec; None where there are no files.
        directory: the directory that lists the pool; None where there is none.
    """

    pids: list[int] = field(default_factory=list)
    files: dict[str, Path] | None = None
    directory: Path | None = None


class Contender(Protocol):
    """One way to an image.

    Attributes:
        lists: how many images and snapshots of a pool it tells sizes and times of, at most.
        many: whether several images can be used at once.
    """

    name: str
    lists: float
    many: bool

    def serve(
        self, bench: Bench, pool: str, specs: Sequence[str]
    ) -> AbstractContextManager[Served]: ...


def _unmount(mountpoint: Path) -> None:
    run(["fusermount3", "-u", mountpoint])


class Rbdfs:
    name = "rbdfs"
    lists = math.inf
    many = True

    def __init__(self, program: Path, options: str) -> None:
        self._command = [program, "-f", *(["-o", options] if options else [])]

    @contextlib.contextmanager
    def serve(self, bench: Bench, pool: str, specs: Sequence[str]) -> Iterator[Served]:
        mountpoint = bench.work / "rbdfs"
        mountpoint.mkdir(exist_ok=True)
        with server(
            [*self._command, "-c", bench.conf, pool, mountpoint],
            [mountpoint],
            bench.work / "rbdfs.log",
            lambda _process: _unmount(mountpoint),
        ) as pid:
            yield Served([pid], {spec: mountpoint / spec for spec in specs}, mountpoint)


class RbdFuse:
    """Ceph's own. It has no snapshots: their images stand in for them.

    It knows 128 images at most, and of files that are used at once some are ENOENT. A listing has
    the names of all images, of which all but 128 are ENOENT for stat(2).
    """

    name = "rbd-fuse"
    lists = 128
    many = False

    @contextlib.contextmanager
    def serve(self, bench: Bench, pool: str, specs: Sequence[str]) -> Iterator[Served]:
        mountpoint = bench.work / "rbd-fuse"
        mountpoint.mkdir(exist_ok=True)
        with server(
            ["rbd-fuse", "-c", bench.conf, "-p", pool, mountpoint, "-f"],
            [mountpoint],
            bench.work / "rbd-fuse.log",
            lambda _process: _unmount(mountpoint),
        ) as pid:
            files = {spec: mountpoint / spec.partition("@")[0] for spec in specs}
            yield Served([pid], files, mountpoint)


class QemuExport:
    """qemu-storage-daemon's FUSE export: a process for each image."""

    name = "qemu"
    lists = 0
    many = True

    @contextlib.contextmanager
    def serve(self, bench: Bench, pool: str, specs: Sequence[str]) -> Iterator[Served]:
        with contextlib.ExitStack() as stack:
            served = Served([], {})
            assert served.files is not None
            for number, spec in enumerate(specs):
                file = bench.work / f"qemu{number}"
                file.touch()
                pid = stack.enter_context(self._export(bench, pool, spec, file))
                served.pids.append(pid)
                served.files[spec] = file
            yield served

    def _export(
        self, bench: Bench, pool: str, spec: str, file: Path
    ) -> AbstractContextManager[int]:
        image, _, snap = spec.partition("@")
        node = f"driver=rbd,node-name=n,pool={pool},image={image},conf={bench.conf}"
        # Direct means without librbd's cache, whatever the configuration file says.
        node += f",cache.direct=on,read-only={'on' if snap else 'off'}"
        if snap:
            node += f",snapshot={snap}"
        export = f"type=fuse,id=e,node-name=n,mountpoint={file}"
        export += f",writable={'off' if snap else 'on'}"
        return server(
            ["qemu-storage-daemon", "--blockdev", node, "--export", export],
            [file],
            bench.work / f"{file.name}.log",
            terminate,
        )


class Librbd:
    """librbd in the client: fio's rbd engine, `rbd export`, `rbd ls -l`."""

    name = "librbd"
    lists = math.inf
    many = True

    @contextlib.contextmanager
    def serve(self, bench: Bench, pool: str, specs: Sequence[str]) -> Iterator[Served]:
        yield Served()
