"""A descriptor of a file that was lost does nothing any more, whatever it is asked for."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.support.conditions import eventually
from tests.support.images import MIB, export_image, import_image, random_bytes
from tests.support.mounts import opened, opened_and_lost
from tests.support.refusals import refusal
from tests.support.servers import ask

if TYPE_CHECKING:
    from tests.support.ceph import Ceph
    from tests.support.mounts import Mounting

DATA = random_bytes(4 * MIB)


@pytest.mark.usefixtures("native")
def test_after_a_fence(ceph: Ceph, pool: str, image_name: str, mounting: Mounting) -> None:
    """The mount has new clients, which could: others may have written to the image since."""
    spec = f"{pool}/{image_name}"
    import_image(ceph, spec, DATA)
    import_image(ceph, f"{spec}-other", DATA)
    with mounting(pool, "-o", "manage") as mount:
        mount.allow_log("(?s)(WARNING|ERROR) .*")
        with (
            opened(mount.file(f"{image_name}-other"), os.O_RDONLY) as other,
            opened_and_lost(mount.file(image_name), os.O_RDWR) as lost,
        ):
            assert os.pwrite(lost, DATA[:4096], 0) == 4096
            (address,) = ceph.lock_owners(spec)
            ceph.blocklist_add(address)
            eventually(lambda: refusal(lambda: os.fsync(lost)) == "ESHUTDOWN", what="the fence")
            ask(mount, "restart")
            for call in (
                lambda: os.ftruncate(lost, MIB),
                lambda: os.ftruncate(lost, 5 * MIB),
                lambda: os.ftruncate(lost, len(DATA)),
                lambda: os.posix_fallocate(lost, 0, MIB),
                lambda: os.lseek(lost, 0, os.SEEK_DATA),
                lambda: os.lseek(lost, 5 * MIB, os.SEEK_HOLE),
                lambda: os.copy_file_range(other, lost, MIB, 0, MIB),
                lambda: os.pwrite(lost, b"late", 0),
            ):
                assert refusal(call) == "ESHUTDOWN"
            # Who opens it anew can.
            with opened(mount.file(image_name), os.O_RDWR) as anew:
                os.ftruncate(anew, 2 * MIB)
                assert refusal(lambda: os.ftruncate(lost, MIB)) == "ESHUTDOWN"
        assert mount.alive
    assert export_image(ceph, spec) == DATA[: 2 * MIB]
