"""What a move that came to no end has left behind, and who may be at it."""

from __future__ import annotations

import errno
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import rbd

from tests.support import crashes
from tests.support.conditions import eventually
from tests.support.images import MIB, import_image, watched
from tests.support.mounts import TIMEOUT_S, opened
from tests.support.moves import PENDING, make, trash, wait_for_log, whole_cluster
from tests.support.quota import pool_with_a_quota
from tests.support.servers import wait_for_server

if TYPE_CHECKING:
    from tests.support.ceph import Ceph
    from tests.support.mounts import Mounting

SIZE = 4 * MIB
KILLED = r"ERROR .*server \d+ was killed \(signal 9\)"


def leave_in_the_trash(ceph: Ceph, pool: str, image_name: str) -> None:
    """As a client does that dies before it has marked the source of a migration."""
    with ceph.connect() as cluster, cluster.open_ioctx(pool) as ioctx:
        with rbd.Image(ioctx, image_name, read_only=True) as image:
            image_id = image.id()
        crashes.trash_source(ioctx, image_name.encode(), image_id)


def test_a_pool_without_permission_keeps_no_other_from_being_looked_at(
    ceph: Ceph, pools: tuple[str, str], mounting: Mounting, image_name: str
) -> None:
    forbidden, allowed = pools
    data = make(ceph, f"{allowed}/{image_name}", snapshot=False, size=SIZE)
    leave_in_the_trash(ceph, allowed, image_name)
    user = f"only-{image_name}"
    caps = ["mon", "profile rbd", "osd", f"profile rbd pool={allowed}"]
    keyring = mounting.directory / "keyring"
    keyring.write_bytes(ceph.ceph("auth", "get-or-create", f"client.{user}", *caps).encode())
    with whole_cluster(mounting, "--id", user, "-k", str(keyring)) as mount:
        mount.expect_log(
            rf"WARNING .*cannot tell whether images of {forbidden} are being moved: .*",
            f"WARNING .*{image_name} was left in the trash .*: restored",
        )
        mount.allow_log(
            r"WARNING .*cannot tell whether images of .* are being moved",
            r"WARNING .*cannot tell which files of .* grew when their host crashed",
        )
        file = mount.file(f"{allowed}/{image_name}")
        eventually(file.exists, what="the image")
        assert file.read_bytes() == data
        assert mount.alive
    assert trash(ceph, allowed) == []


@pytest.mark.usefixtures("native")
def test_what_another_client_prepares_is_not_taken_back(
    ceph: Ceph, pools: tuple[str, str], mounting: Mounting, image_name: str
) -> None:
    """It has the image open, as a mount has that is in the midst of its own prepare."""
    hdd, ssd = pools
    data = make(ceph, f"{hdd}/{image_name}", snapshot=False, size=SIZE)
    control = mounting.directory / "step"
    control.write_text("within rbdfs.moves.migration:Migration._prepare")
    program = [sys.executable, crashes.__file__, str(control)]
    with ceph.connect() as cluster, cluster.open_ioctx(hdd) as ioctx:
        with rbd.Image(ioctx, image_name, read_only=True) as image:
            header = f"rbd_header.{image.id()}"
        with (
            watched(ioctx, header),
            whole_cluster(mounting, program=program) as mount,
            ThreadPoolExecutor(1) as threads,
        ):
            mount.expect_log(KILLED, r"WARNING .*stays in the trash: .* is watched by")
            source, target = (mount.file(f"{pool}/{image_name}") for pool in pools)
            moving = threads.submit(os.rename, source, target)
            wait_for_server(mount, 2)
            with pytest.raises(OSError, match=image_name) as caught:
                moving.result(TIMEOUT_S)
            assert caught.value.errno == errno.ENOENT
            wait_for_log(mount, "stays in the trash")
            assert trash(ceph, hdd) == [image_name]
            assert not target.exists()
            assert mount.alive
    with whole_cluster(mounting) as mount:
        mount.expect_log(f"WARNING .*{image_name} was left in the trash .*: restored")
        eventually(mount.file(f"{hdd}/{image_name}").exists, what="the image")
        assert mount.file(f"{hdd}/{image_name}").read_bytes() == data


def test_a_prepare_that_fails_half_way(
    ceph: Ceph, pools: tuple[str, str], mounting: Mounting, image_name: str
) -> None:
    """It is undone as soon as that is possible, and open files wait for it."""
    hdd, full = pools[0], f"full-{image_name}"
    data = make(ceph, f"{hdd}/{image_name}", snapshot=True, size=SIZE)
    with pool_with_a_quota(ceph, full) as set_quota:
        import_image(ceph, f"{full}/{image_name}-other", bytes(4096))
        with whole_cluster(mounting, "-o", "timeout=3") as mount:
            mount.allow_log(PENDING, r"ERROR .*has failed .* and cannot be undone")
            mount.allow_log(r"ERROR .* stays in state", r"WARNING .*")
            source, target = mount.file(f"{hdd}/{image_name}"), mount.file(f"{full}/{image_name}")
            with opened(source, os.O_RDWR | os.O_DIRECT) as file:
                set_quota(1)
                with pytest.raises(OSError, match=image_name) as caught:
                    os.rename(source, target)
                assert caught.value.errno == errno.ETIMEDOUT
                set_quota(0)
                eventually(source.exists, what="the image where it was")
                assert os.pread(file, SIZE, 0) == data
                assert os.pwrite(file, data[:4096], 0) == 4096
            assert source.read_bytes() == data
            assert not target.exists()
            assert trash(ceph, hdd) == []
            assert mount.alive
