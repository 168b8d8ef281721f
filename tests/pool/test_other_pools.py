"""Images whose parent or data is in another pool, which need not be meant for RBD or for us."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from tests.support.ceph import run
from tests.support.conditions import eventually
from tests.support.images import MIB, import_image, random_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mounting

DATA = random_bytes(4 * MIB)


@pytest.fixture(scope="module")
def other(ceph: Ceph) -> Iterator[str]:
    """A pool without an application, with image `parent` and its snapshot `s`."""
    with ceph.temporary_pool("other", application=False) as other:
        import_image(ceph, f"{other}/parent", DATA)
        ceph.rbd("snap", "create", "--no-progress", f"{other}/parent@s")
        yield other


@pytest.fixture(scope="module")
def images(ceph: Ceph, pool: str, other: str) -> str:
    """A pool with `clone` of what is in the other pool, and `data`, whose data is there."""
    ceph.rbd("clone", "--rbd-default-clone-format=2", f"{other}/parent@s", f"{pool}/clone")
    import_image(ceph, f"{pool}/data", DATA, f"--data-pool={other}")
    return pool


def attributes(path: object) -> dict[str, str]:
    text = run("getfattr", "-d", "--absolute-names", str(path))
    lines = [line for line in text.splitlines() if line.startswith("user.")]
    return {key: value.strip('"') for key, _, value in (line.partition("=") for line in lines)}


def test_pools_without_the_application(images: str, other: str, mounting: Mounting) -> None:
    with mounting(images) as mount:
        assert mount.file("clone").read_bytes() == DATA
        assert mount.file("data").read_bytes() == DATA
        assert attributes(mount.file("clone"))["user.rbd.parent"] == f"{other}/parent@s"
        assert attributes(mount.file("data"))["user.rbd.data_pool"] == other


def test_a_parent_that_may_not_be_read(
    ceph: Ceph, images: str, other: str, mounting: Mounting
) -> None:
    """It has no name then, and hides no other attribute."""
    user = f"{images}-only"
    caps = ["mon", "profile rbd", "osd", f"profile rbd pool={images}"]
    key = json.loads(ceph.ceph("auth", "get-or-create", f"client.{user}", *caps, "--format=json"))
    snap_id = json.loads(ceph.rbd("snap", "ls", "--format=json", f"{other}/parent"))[0]["id"]
    image_id = json.loads(ceph.rbd("info", "--format=json", f"{other}/parent"))["id"]
    try:
        with mounting(images, "--id", user, "-o", f"key={key[0]['key']}") as mount:
            found = attributes(mount.file("clone"))
            assert found["user.rbd.parent"] == f"{other}/id:{image_id}@id:{snap_id}"
            assert found["user.rbd.size"] == str(4 * MIB)
            assert attributes(mount.file("data"))["user.rbd.data_pool"] == other
            mount.allow_log("getxattr: .*(lock_owner|watchers|parent|clone|Permission|permitted)")
    finally:
        ceph.ceph("auth", "rm", f"client.{user}")


def test_what_fits_is_what_a_quota_and_the_data_pool_allow(
    ceph: Ceph, images: str, other: str, mounting: Mounting
) -> None:
    with mounting(images) as mount, mounting(images, "-o", f"data_pool={other}") as with_data:

        def sizes(path: object) -> tuple[int, int]:
            stat = os.statvfs(str(path))
            return (stat.f_blocks - stat.f_bfree) * stat.f_frsize, stat.f_bavail * stat.f_frsize

        # The mgr tells of it every few seconds.
        os.listdir(mount.path)
        eventually(lambda: sizes(mount.path)[0] >= 8 * MIB, what="the data of both pools")
        assert sizes(mount.path)[1] > 100 * MIB
        for limited, path in ((other, with_data.path), (images, mount.path)):
            ceph.ceph("osd", "pool", "set-quota", limited, "max_bytes", str(50 * MIB))
            eventually(lambda path=path: sizes(path)[1] <= 50 * MIB, what="the quota")  # type: ignore[misc]
