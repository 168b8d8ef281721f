"""Holes, data and what an image takes of its pool, as the kernel, librbd and rbdfs tell of them."""

from __future__ import annotations

import ctypes
import errno
import json
import os
from typing import TYPE_CHECKING

from tests.support.ceph import run
from tests.support.mounts import RBDFS, opened

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount

# linux/falloc.h
KEEP_SIZE = 0x01
PUNCH_HOLE = 0x02
COLLAPSE_RANGE = 0x08
ZERO_RANGE = 0x10
INSERT_RANGE = 0x20
UNSHARE_RANGE = 0x40
PUNCH = PUNCH_HOLE | KEEP_SIZE

_COMPARED = 4 << 20


def fallocate(file: int, mode: int, off: int, length: int) -> None:
    """fallocate(2), which the os module has for mode 0 alone; raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    call = libc.fallocate
    call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    if call(file, mode, off, length):
        code = ctypes.get_errno()
        raise OSError(code, f"fallocate {mode:#x} {off}~{length}: {os.strerror(code)}")


def data_extents(file: int) -> list[tuple[int, int]]:
    """``(start, end)`` of all data, as SEEK_DATA and SEEK_HOLE tell."""
    found: list[tuple[int, int]] = []
    end = 0
    size = os.fstat(file).st_size
    while end < size:
        try:
            start = os.lseek(file, end, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno != errno.ENXIO:
                raise
            break
        assert start >= end
        end = os.lseek(file, start, os.SEEK_HOLE)
        assert end > start
        found.append((start, end))
    return found


def used_bytes(ceph: Ceph, spec: str) -> int:
    """What `rbd du` says that an image takes, its snapshots not among it."""
    name = spec.rpartition("/")[2]
    images = json.loads(ceph.rbd("du", "--format=json", spec))["images"]
    used: list[int] = [
        image["used_size"]
        for image in images
        if name in (image["name"], f"{image['name']}@{image.get('snapshot')}")
        and ("@" in name) == ("snapshot" in image)
    ]
    assert len(used) == 1, images
    return used[0]


def requests(mount: Mount) -> dict[str, int]:
    """The counters of the data path."""
    counters: dict[str, int] = json.loads(run(str(RBDFS), "status", str(mount.path)))["requests"]
    return counters


def assert_same(path: Path, reference: Path) -> None:
    """Compare two files byte for byte, but for where both have a hole."""
    with opened(path, os.O_RDONLY) as one, opened(reference, os.O_RDONLY) as other:
        assert os.fstat(one).st_size == os.fstat(other).st_size
        for start, end in sorted([*data_extents(one), *data_extents(other)]):
            for off in range(start, end, _COMPARED):
                length = min(_COMPARED, end - off)
                same = os.pread(one, length, off) == os.pread(other, length, off)
                assert same, f"{path} and {reference} differ in {off}~{length}"
