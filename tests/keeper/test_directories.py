"""A directory that is being read when its server ends: no name is left out, none is given twice."""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING

import pytest
import rbd

from tests.support.mounts import opened
from tests.support.servers import ask, killed_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mounting

pytestmark = pytest.mark.usefixtures("native")

# A file name of this length leaves room for some twenty in one answer.
NAMES = [f"{number:03d}-{'x' * 40}" for number in range(120)]
GETDENTS64 = 217
ROOM = 4096


def entries(directory: int) -> Iterator[list[str]]:
    """What getdents64(2) returns, call by call: the C library would read ahead."""
    libc, buffer = ctypes.CDLL(None, use_errno=True), ctypes.create_string_buffer(ROOM)
    while length := libc.syscall(GETDENTS64, directory, buffer, ROOM):
        if length < 0:
            raise OSError(ctypes.get_errno(), "getdents64")
        names, off = [], 0
        while off < length:
            size = int.from_bytes(buffer.raw[off + 16 : off + 18], "little")
            names.append(buffer.raw[off + 19 : off + size].split(b"\0")[0].decode())
            off += size
        yield [name for name in names if name not in (".", "..")]


@pytest.mark.parametrize("end", ["killed", "restarted"])
@pytest.mark.parametrize("which", [slice(0, 10), slice(-5, None)], ids=["before", "at"])
def test_read_on(
    ceph: Ceph, pool: str, image_name: str, mounting: Mounting, end: str, which: slice
) -> None:
    """What was removed meanwhile stood before the place, or at it."""
    ceph.rbd("namespace", "create", f"{pool}/{image_name}")
    with ceph.connect() as cluster, cluster.open_ioctx(pool) as ioctx:
        ioctx.set_namespace(image_name)
        for name in NAMES:
            rbd.RBD().create(ioctx, name, 4096, old_format=False)
        with (
            mounting(f"{pool}/{image_name}") as mount,
            opened(mount.path, os.O_RDONLY | os.O_DIRECTORY) as directory,
        ):
            reading = entries(directory)
            found = [*next(reading), *next(reading)]
            assert 10 < len(found) < 100
            if end == "killed":
                killed_server(mount)
            else:
                ask(mount, "restart")
            removed = found[which]
            for name in removed:
                rbd.RBD().remove(ioctx, name)
            found += [name for names in reading for name in names]
            assert found == NAMES
            assert sorted(os.listdir(mount.path)) == sorted(set(NAMES) - set(removed))


def test_a_place_that_nobody_knows(
    ceph: Ceph, pool: str, image_name: str, mounting: Mounting
) -> None:
    """All that was given is gone: a reading that might skip something ends with an error."""
    ceph.rbd("namespace", "create", f"{pool}/{image_name}")
    with ceph.connect() as cluster, cluster.open_ioctx(pool) as ioctx:
        ioctx.set_namespace(image_name)
        for name in NAMES:
            rbd.RBD().create(ioctx, name, 4096, old_format=False)
        with (
            mounting(f"{pool}/{image_name}") as mount,
            opened(mount.path, os.O_RDONLY | os.O_DIRECTORY) as directory,
        ):
            reading = entries(directory)
            found = next(reading)
            killed_server(mount)
            for name in NAMES[:100]:
                rbd.RBD().remove(ioctx, name)
            with pytest.raises(OSError, match="getdents64"):
                found += [name for names in reading for name in names]
            mount.expect_log(r"WARNING .*nobody knows where the reading was")
            assert os.listdir(mount.path) == NAMES[100:]
