"""A kernel that has no memory in one piece for a large request to Python: it is asked again."""

from __future__ import annotations

import mmap
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.images import MIB, export_image, random_bytes
from tests.support.mounts import RBDFS, opened

if TYPE_CHECKING:
    from tests.support.ceph import Ceph
    from tests.support.mounts import Mounting

SIZE = 8 * MIB
OFFSETS = range(0, SIZE, MIB)
SOURCE = Path(__file__).parents[1] / "support" / "scarce_memory.c"


@pytest.mark.usefixtures("native")
def test_a_file_grows_all_the_same(
    ceph: Ceph, pool: str, mounting: Mounting, image_name: str, tmp_path: Path
) -> None:
    """Writes of 1 MiB to a file that grows go to Python, in packets."""
    library = tmp_path / "scarce_memory.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, SOURCE], check=True)
    data = random_bytes(SIZE)
    program = ["env", f"LD_PRELOAD={library}", str(RBDFS)]
    with mounting(pool, "-o", "manage", program=program) as mount:
        with opened(mount.file(image_name), os.O_WRONLY | os.O_CREAT) as file:
            for off in OFFSETS:
                assert os.pwrite(file, data[off : off + MIB], off) == MIB
            # No process is started meanwhile: that it closes the file would trim it.
            with opened(mount.file(image_name), os.O_RDONLY | os.O_DIRECT) as reader:
                assert b"".join(read_pages(reader, off, MIB) for off in OFFSETS) == data
        assert mount.file(image_name).read_bytes() == data
    assert export_image(ceph, f"{pool}/{image_name}") == data


def read_pages(file: int, off: int, size: int) -> bytes:
    """As O_DIRECT wants it."""
    with mmap.mmap(-1, size) as buffer:
        assert os.preadv(file, [buffer], off) == size
        return buffer[:]
