"""How far a move is stands in the status, until its source is removed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.support.conditions import eventually
from tests.support.images import MIB, import_image, random_bytes
from tests.support.moves import whole_cluster
from tests.support.servers import ask

if TYPE_CHECKING:
    from tests.support.ceph import Ceph
    from tests.support.mounts import Mounting


def test_status_tells_how_far_a_move_is(
    ceph: Ceph, pools: tuple[str, str], image_name: str, mounting: Mounting
) -> None:
    hdd, ssd = pools
    import_image(ceph, f"{hdd}/{image_name}", random_bytes(8 * MIB))
    with whole_cluster(mounting, exit_code=0) as mount:
        assert ask(mount, "status")["moves"] == []
        os.rename(mount.file(f"{hdd}/{image_name}"), mount.file(f"{ssd}/{image_name}"))
        copied = {"image": f"{hdd}/{image_name}", "to": f"{ssd}/{image_name}", "percent": 100}
        eventually(lambda: ask(mount, "status")["moves"] == [copied], what="all of it")
        eventually(lambda: ask(mount, "status")["moves"] == [], 60.0, "the end")
