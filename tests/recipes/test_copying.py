"""Images in and out, sparse and compared, and from pool to pool."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.images import MIB, export_image, import_image, random_bytes
from tests.support.recipes import POOL, need, write

if TYPE_CHECKING:
    from tests.support.ceph import Ceph
    from tests.support.recipes import Machine

DISK = 16 * MIB


def test_copying(ceph: Ceph, here: Machine) -> None:
    need("rsync", "qemu-img")
    recipe = "copying"
    data = random_bytes(DISK) + bytes(8 * MIB)
    import_image(ceph, f"{POOL}/vm1", data)
    ceph.rbd("snap", "create", "--no-progress", f"{POOL}/vm1@nightly")
    here.follow(recipe, "Out")
    assert here.path(Path("/srv/backup/vm1.raw")).stat().st_blocks * 512 <= DISK + MIB
    here.follow(recipe, "In, as a new image")
    assert export_image(ceph, f"{POOL}/vm3") == export_image(ceph, f"{POOL}/vm4") == data
    # No object where the zeros are.
    (usage,) = json.loads(ceph.rbd("du", "--format=json", f"{POOL}/vm3"))["images"]
    assert usage["used_size"] == DISK
    for name in ("vm1", "vm3", "vm4"):
        write(ceph, name, random_bytes(DISK, seed=9), 4 * MIB)
    here.follow(recipe, "In, onto an image that is there")
    for name in ("vm1", "vm3", "vm4"):
        assert export_image(ceph, f"{POOL}/{name}") == data
    ceph.ceph("osd", "pool", "create", "archive")
    try:
        ceph.rbd("pool", "init", "archive")
        assert re.search(r'"percent": \d+', here.follow(recipe, "To another pool"))
        assert export_image(ceph, "archive/vm1@nightly") == data
        assert ceph.rbd("ls", "archive").split() == ["vm1"]
        assert "Migration" not in ceph.rbd("status", "archive/vm1")
        assert not ceph.rbd("trash", "ls", "--all", POOL)
    finally:
        ceph.remove_pool("archive")
