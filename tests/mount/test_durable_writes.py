"""A write that asks for O_DSYNC by itself, on a file that grows: Python hears of it too."""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING

from tests.support.images import export_image
from tests.support.mounts import opened
from tests.support.servers import ask

if TYPE_CHECKING:
    from tests.support.ceph import Ceph
    from tests.support.mounts import Mounting


def test_a_file_that_grows_by_durable_writes(
    ceph: Ceph, pool: str, image_name: str, mounting: Mounting, native: None
) -> None:
    data = mmap.mmap(-1, 8192)
    data[:] = os.urandom(8192)
    with mounting(pool, "-o", "manage") as mount:
        flags = os.O_RDWR | os.O_CREAT | os.O_DIRECT
        with opened(mount.file(image_name), flags) as file:
            assert os.pwritev(file, [data], 0, os.RWF_DSYNC) == 8192
            assert ask(mount, "status")["requests"]["extra"] == 1
            assert export_image(ceph, f"{pool}/{image_name}")[:8192] == data[:]
