"""fio at depth 32, as a virtual machine uses its disk: no write is lost or mixed up."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.support.ceph import run
from tests.support.images import MIB

if TYPE_CHECKING:
    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount

SIZE_MIB = 24
ENGINES = {"libaio": [], "io_uring": [], "io_uring-fixed": ["--fixedbufs"]}


@pytest.mark.parametrize("engine", ENGINES)
def test_direct_writes_in_parallel(
    ceph: Ceph, pool: str, image_name: str, mount: Mount, engine: str
) -> None:
    """Random 4 KiB, half of them overwritten, with discards and large writes beside them."""
    ceph.rbd("create", f"--size={SIZE_MIB}M", f"{pool}/{image_name}")
    common = [
        "fio",
        "--output-format=json",
        f"--filename={mount.file(image_name)}",
        f"--ioengine={engine.partition('-')[0]}",
        *ENGINES[engine],
        *("--direct=1", "--iodepth=32", "--verify=crc32c", "--verify_fatal=1"),
        *("--verify_state_save=0", "--do_verify=1", "--thread"),
    ]
    small = ["--name=small", "--rw=randwrite", "--bs=4k", "--size=8m", "--norandommap=0"]
    mixed = ["--name=mixed", "--rw=randrw", "--bs=4k", "--offset=8m", "--size=8m"]
    large = ["--name=large", "--rw=write", "--bs=1m", "--offset=16m", "--size=8m"]
    jobs = json.loads(run(*common, *small, *mixed, *large))["jobs"]
    assert [job["error"] for job in jobs] == [0, 0, 0]
    assert [job["write"]["io_bytes"] for job in jobs][::2] == [8 * MIB, 8 * MIB]
    assert all(job["read"]["io_bytes"] >= job["write"]["io_bytes"] for job in jobs)
