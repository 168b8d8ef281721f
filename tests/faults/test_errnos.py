"""What an errno of librbd does to the mount: nothing beyond the request that it answers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.support.images import MIB, import_image, random_bytes
from tests.support.refusals import refusal

if TYPE_CHECKING:
    from tests.support.ceph import Ceph
    from tests.support.mounts import Mounting

DATA = random_bytes(MIB)


def test_an_image_that_cannot_be_opened_here_closes_no_other(
    ceph: Ceph, pool: str, image_name: str, mounting: Mounting
) -> None:
    """librbd says ENOSYS of a plugin that is missing: the kernel would never send an OPEN again."""
    good = f"{image_name}-good"
    for name in (image_name, good):
        import_image(ceph, f"{pool}/{name}", DATA)
    ceph.rbd("image-meta", "set", f"{pool}/{image_name}", "conf_rbd_plugins", "pwl_cache")
    with mounting(pool) as mount:
        mount.expect_log(r"open: .*Function not implemented")
        for _ in range(2):
            assert refusal(lambda: os.open(mount.file(image_name), os.O_RDONLY)) == "EIO"
            assert mount.file(good).read_bytes() == DATA
        with mount.file(good).open("r+b") as file:
            file.write(b"lives")
            os.fsync(file.fileno())
