"""mtime and ctime move whenever the content may have changed, here at once and elsewhere soon."""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING

import pytest

from tests.support.conditions import SEEN_S, eventually
from tests.support.images import MIB, import_image
from tests.support.mounts import opened
from tests.support.servers import killed_server

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mounting


def times(path: Path | int) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_mtime_ns, found.st_ctime_ns


@pytest.mark.parametrize("data_path", ["native", "python"])
@pytest.mark.parametrize("flag", ["buffered", "O_DIRECT"])
def test_each_write_moves_the_times(
    ceph: Ceph, pool: str, image_name: str, mounting: Mounting, data_path: str, flag: str
) -> None:
    """librbd stamps once a minute: what was written in between, no time told of."""
    import_image(ceph, f"{pool}/{image_name}", bytes(MIB))
    page = mmap.mmap(-1, 4096)
    option = f"datapath={data_path}"
    with mounting(pool, "-o", option) as mount, mounting(pool, "-o", "ro") as other:
        path = mount.file(image_name)
        seen = [times(path)]
        for _ in range(2):
            with opened(path, os.O_RDWR | getattr(os, flag, 0)) as file:
                for number in range(3):
                    os.pwritev(file, [page], 4096 * number)
                    seen.append(times(path) if number % 2 else times(file))
                os.pwritev(file, [page], 0)
                os.fsync(file)
            seen.append(times(path))
        assert seen == sorted(set(seen))
        assert all(ctime >= mtime for mtime, ctime in seen)
        eventually(lambda: times(other.file(image_name)) == seen[-1], SEEN_S, "the last time")
        # Who looks again sees the same: nothing was written.
        assert times(path) == seen[-1]


def test_a_mapping_that_is_written_moves_the_times(
    ceph: Ceph, pool: str, image_name: str, mounting: Mounting
) -> None:
    import_image(ceph, f"{pool}/{image_name}", bytes(MIB))
    with mounting(pool) as mount, opened(mount.file(image_name), os.O_RDWR) as file:
        before = times(file)
        with mmap.mmap(file, MIB) as mapping:
            mapping[5000:5003] = b"new"
            mapping.flush()
            eventually(lambda: times(file) > before, SEEN_S, "the time of the change")


@pytest.mark.usefixtures("native")
def test_a_write_of_a_server_that_was_killed(
    ceph: Ceph, pool: str, image_name: str, mounting: Mounting
) -> None:
    import_image(ceph, f"{pool}/{image_name}", bytes(MIB))
    with mounting(pool) as mount, opened(mount.file(image_name), os.O_RDWR) as file:
        os.pwrite(file, b"one", 0)
        before = times(file)
        os.pwrite(file, b"two", 0)
        os.fsync(file)
        killed_server(mount)
        eventually(lambda: times(file) > before, SEEN_S, "the time of the change")
