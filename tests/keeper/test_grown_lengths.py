"""The host dies while files grow: whatever was said of their lengths is so at the next mount."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import pytest
import rbd

from tests.support.conditions import eventually
from tests.support.images import MIB, random_bytes
from tests.support.mounts import opened_and_lost
from tests.support.servers import kill_keeper_and_server
from tests.support.space import KEEP_SIZE, PUNCH, fallocate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import rados

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount, Mounting

pytestmark = pytest.mark.usefixtures("native")

# What the first write makes room for.
ROOM = 64 * MIB
MARK = "rbdfs.growing"


@contextlib.contextmanager
def whole_crash(mount: Mount) -> Iterator[None]:
    """Have keeper and server killed at the end of the block, while its files are open."""
    yield
    kill_keeper_and_server(mount)


def mark_of(ioctx: rados.Ioctx, name: str) -> str | None:
    """What an image says of its growth."""
    with rbd.Image(ioctx, name, read_only=True) as image:
        return dict(image.metadata_list()).get(MARK)


def size_of(ioctx: rados.Ioctx, name: str) -> int:
    with rbd.Image(ioctx, name, read_only=True) as image:
        return int(image.size())


def fence_watchers(ceph: Ceph, spec: str) -> None:
    """Have nobody wait for who has an image open, and is dead."""
    for address in ceph.watchers(spec):
        ceph.blocklist_add(address)


def truncated_to_the_room(file: int) -> int:
    os.ftruncate(file, ROOM)
    return ROOM


def truncated_to_the_room_of_before(file: int) -> int:
    os.pwrite(file, b"beyond", 2 * ROOM - 6)
    os.fsync(file)
    os.ftruncate(file, ROOM)
    return ROOM


def truncated_and_grown(file: int) -> int:
    os.ftruncate(file, ROOM - 1)
    os.pwrite(file, b"grows", ROOM - 2)
    os.fsync(file)
    return ROOM + 3


def reserved_within_the_room(file: int) -> int:
    os.posix_fallocate(file, 0, ROOM // 2)
    return ROOM // 2


def reserved_beyond_the_room(file: int) -> int:
    os.posix_fallocate(file, ROOM, ROOM // 2)
    return ROOM * 3 // 2


def punched_at_the_end(file: int) -> int:
    os.pwrite(file, random_bytes(12 * MIB), 0)
    os.fsync(file)
    fallocate(file, PUNCH | KEEP_SIZE, 4 * MIB, 8 * MIB)
    return 12 * MIB


def copied_with_a_hole_at_the_end(file: int) -> int:
    source = os.open(f"/proc/self/fd/{file}", os.O_RDONLY)
    try:
        os.pwrite(file, random_bytes(8 * MIB), 0)
        os.fsync(file)
        fallocate(file, PUNCH | KEEP_SIZE, 4 * MIB, 4 * MIB)
        assert os.copy_file_range(source, file, 8 * MIB, 0, 8 * MIB) == 8 * MIB
    finally:
        os.close(source)
    return 16 * MIB


CHANGES = [
    truncated_to_the_room,
    truncated_to_the_room_of_before,
    truncated_and_grown,
    reserved_within_the_room,
    reserved_beyond_the_room,
    punched_at_the_end,
    copied_with_a_hole_at_the_end,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_was_said_of_a_length(
    ceph: Ceph,
    pool: str,
    ioctx: rados.Ioctx,
    image_name: str,
    mounting: Mounting,
    change: Callable[[int], int],
) -> None:
    witness = f"{image_name}-witness"
    names = (witness, image_name)
    with mounting(pool, "-o", "manage", exit_code=None) as mount, contextlib.ExitStack() as files:
        with whole_crash(mount):
            for name in names:
                flags = os.O_CREAT | os.O_RDWR
                file = files.enter_context(opened_and_lost(mount.file(name), flags))
                os.pwrite(file, b"grows", 0)
                os.fsync(file)
            length = change(file)
            assert os.fstat(file).st_size == length
        assert size_of(ioctx, witness) == ROOM
        for name in names:
            fence_watchers(ceph, f"{pool}/{name}")
        with mounting(pool, "-o", "manage", mountpoint=mount.path) as again:
            again.allow_log(r"WARNING .*a mount died here as a whole")
            eventually(lambda: again.file(witness).stat().st_size == 5, what="the length")
            eventually(lambda: not any(mark_of(ioctx, name) for name in names), what="no mark")
    assert [size_of(ioctx, name) for name in names] == [5, length]
