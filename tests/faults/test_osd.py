"""The OSD is killed and started again under load: a pause, no error and no wrong byte."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.keeper.test_load import verify
from tests.support.ceph import Ceph
from tests.support.mounts import Mounting
from tests.support.servers import repeatedly

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def bluestore(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ceph]:
    """A cluster whose OSD keeps what it has written when it is killed."""
    cluster = Ceph.start(tmp_path_factory.mktemp("bluestore"), objectstore="bluestore")
    try:
        yield cluster
    finally:
        cluster.stop()


def test_fio_verifies(bluestore: Ceph, tmp_path: Path) -> None:
    bluestore.rbd("create", "--size=16M", "rbd/image")
    with Mounting(bluestore, tmp_path)("rbd") as mount:
        with repeatedly(lambda: bluestore.restart("osd.0", kill=True), 1.5) as times:
            job = verify(mount.file("image"), 4)
        assert times
        assert job["error"] == 0
        assert mount.alive
