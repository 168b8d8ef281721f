"""An image that is copied to where it was moved is not shrunk: what is cut off would come back."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.support.images import MIB, export_image, import_image, random_bytes
from tests.support.mounts import opened
from tests.support.refusals import refusal

if TYPE_CHECKING:
    from tests.support.ceph import Ceph
    from tests.support.mounts import Mounting

DATA = random_bytes(16 * MIB)


def test_refused_until_it_is_copied(
    ceph: Ceph, pools: tuple[str, str], image_name: str, mounting: Mounting
) -> None:
    """librbd forgets the shrinking when the target grows again, and reads the source there."""
    source, target = (f"{pool}/{image_name}" for pool in pools)
    import_image(ceph, source, DATA)
    ceph.rbd("migration", "prepare", source, target)
    with mounting(pools[1], "-o", "manage") as mount:
        mount.allow_log(r"WARNING .*is not complete")
        path = mount.file(image_name)
        with opened(path, os.O_RDWR) as file:
            assert os.pwrite(file, b"here", 0) == 4
            for shrink in (
                lambda: os.ftruncate(file, 5 * MIB),
                lambda: os.truncate(path, 0),
                lambda: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC)),
            ):
                assert refusal(shrink) == "EBUSY"
            assert os.fstat(file).st_size == len(DATA)
            # Growing does no harm, nor does shrinking once all is copied.
            os.ftruncate(file, 20 * MIB)
            assert os.pread(file, 20 * MIB, 0) == b"here" + DATA[4:] + bytes(4 * MIB)
            ceph.rbd("migration", "execute", "--no-progress", target)
            os.ftruncate(file, 5 * MIB)
            os.ftruncate(file, 20 * MIB)
        ceph.rbd("migration", "commit", "--no-progress", target)
        expected = b"here" + DATA[4 : 5 * MIB] + bytes(15 * MIB)
        assert path.read_bytes() == expected
    assert export_image(ceph, target) == expected
