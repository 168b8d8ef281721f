"""A directory that is being read when its server ends: no name is left out, none is given twice."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

import pytest
import rbd

from tests.support import crashes
from tests.support.directories import entries
from tests.support.mounts import opened
from tests.support.servers import ask, killed_server

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import rados

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount, Mounting

pytestmark = pytest.mark.usefixtures("native")

# A file name of this length leaves room for some twenty in one answer.
NAMES = [f"{number:03d}-{'x' * 40}" for number in range(120)]


@contextlib.contextmanager
def being_read(
    ceph: Ceph, pool: str, namespace: str, mounting: Mounting, program: Sequence[str] = ()
) -> Iterator[tuple[Mount, int, rados.Ioctx]]:
    """A mount of a namespace with NAMES, open as a directory; and the namespace."""
    ceph.rbd("namespace", "create", f"{pool}/{namespace}")
    with ceph.connect() as cluster, cluster.open_ioctx(pool) as ioctx:
        ioctx.set_namespace(namespace)
        for name in NAMES:
            rbd.RBD().create(ioctx, name, 4096, old_format=False)
        with (
            mounting(f"{pool}/{namespace}", program=program) as mount,
            opened(mount.path, os.O_RDONLY | os.O_DIRECTORY) as directory,
        ):
            yield mount, directory, ioctx


@pytest.mark.parametrize("end", ["killed", "restarted"])
@pytest.mark.parametrize("which", [slice(0, 10), slice(-5, None)], ids=["before", "at"])
def test_read_on(
    ceph: Ceph, pool: str, image_name: str, mounting: Mounting, end: str, which: slice
) -> None:
    """What was removed meanwhile stood before the place, or at it."""
    with being_read(ceph, pool, image_name, mounting) as (mount, directory, ioctx):
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


# For less than one answer has, which overlap then, and for more.
@pytest.mark.parametrize("room", [512, 4096])
def test_servers_that_die_before_their_answer_is_there(
    ceph: Ceph, pool: str, image_name: str, mounting: Mounting, room: int
) -> None:
    """The place is of a reading before, and the keeper has been told of a later answer."""
    control = mounting.directory / "step"
    program = [sys.executable, crashes.__file__, str(control)]
    with being_read(ceph, pool, image_name, mounting, program) as (mount, directory, ioctx):
        reading = entries(directory, room)
        found = [*next(reading), *next(reading)]
        for generation in (2, 4):
            control.write_text("after rbdfs.fuse.operations:Operations.readdir")
            killed_server(mount, generation)
            mount.expect_log(rf"ERROR .*server {generation} was killed \(signal 9\)")
            removed = found[-3:]
            for name in removed:
                rbd.RBD().remove(ioctx, name)
            found += next(reading)
            assert not control.exists(), "the server was not killed"
        found += [name for names in reading for name in names]
        assert found == NAMES


def test_a_place_that_nobody_knows(
    ceph: Ceph, pool: str, image_name: str, mounting: Mounting
) -> None:
    """All that was given is gone: a reading that might skip something ends with an error."""
    with being_read(ceph, pool, image_name, mounting) as (mount, directory, ioctx):
        reading = entries(directory)
        found = next(reading)
        killed_server(mount)
        for name in NAMES[:100]:
            rbd.RBD().remove(ioctx, name)
        with pytest.raises(OSError, match="getdents64"):
            found += [name for names in reading for name in names]
        mount.expect_log(r"WARNING .*nobody knows where the reading was")
        assert os.listdir(mount.path) == NAMES[100:]
