"""The OSD is killed and started again under load: a pause, no error and no wrong byte."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.keeper.test_load import verify
from tests.support.mounts import Mounting
from tests.support.servers import repeatedly

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.ceph import Ceph


def test_fio_verifies(bluestore: Ceph, tmp_path: Path) -> None:
    bluestore.rbd("create", "--size=16M", "rbd/image")
    with Mounting(bluestore, tmp_path)("rbd") as mount:
        with repeatedly(lambda: bluestore.restart("osd.0", kill=True), 1.5) as times:
            job = verify(mount.file("image"), 4)
        assert times
        assert job["error"] == 0
        assert mount.alive
