"""fio writes a file with checksums in every block, and finds them all again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.ceph import run
from tests.support.images import MIB

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount

SIZE_MIB = 16


def fio(path: Path, **options: object) -> dict[str, Any]:
    """The figures of fio's one job, after a check that it met no error."""
    settings = {
        "name": "verify",
        "filename": path,
        "ioengine": "libaio",
        "verify_state_save": 0,
        **options,
    }
    arguments = [f"--{name}={value}" for name, value in settings.items()]
    job: dict[str, Any] = json.loads(run("fio", "--output-format=json", *arguments))["jobs"][0]
    assert job["error"] == 0
    return job


@pytest.mark.parametrize("depth", [1, 16])
@pytest.mark.parametrize("direct", [0, 1], ids=["buffered", "direct"])
def test_random_writes_are_read_back(
    ceph: Ceph, pool: str, image_name: str, mount: Mount, direct: int, depth: int
) -> None:
    ceph.rbd("create", f"--size={SIZE_MIB}M", f"{pool}/{image_name}")
    blocks = {"bs": "4k", "rw": "randwrite", "size": f"{SIZE_MIB}m", "io_size": "2m"}
    checks = {"verify": "crc32c", "verify_fatal": 1, "do_verify": 1, "end_fsync": 1}
    job = fio(mount.file(image_name), direct=direct, iodepth=depth, **blocks, **checks)
    assert job["write"]["total_ios"] == job["read"]["total_ios"] == 512


def test_blocks_of_mixed_sizes_over_the_whole_image(
    ceph: Ceph, pool: str, image_name: str, mount: Mount
) -> None:
    """Across page, request and object bounds."""
    ceph.rbd("create", f"--size={SIZE_MIB}M", "--object-size=64K", f"{pool}/{image_name}")
    options = {"rw": "write", "bsrange": "512-1m", "bs_unaligned": 1, "size": f"{SIZE_MIB}m"}
    job = fio(mount.file(image_name), iodepth=8, verify="crc32c", end_fsync=1, **options)
    # The last block may leave less than the smallest one to write.
    written = job["write"]["io_bytes"]
    assert SIZE_MIB * MIB - 512 < written <= SIZE_MIB * MIB
    assert job["read"]["io_bytes"] == written
