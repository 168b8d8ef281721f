"""A member of a group: Ceph 20 and later do not let it go to the trash."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.pool.test_managing import trashed
from tests.support.images import MIB, export_image, import_image, random_bytes
from tests.support.refusals import refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount, Mounting

DATA = random_bytes(MIB)
NEW = random_bytes(MIB, 1)


def kept(ceph: Ceph) -> bool:
    """Whether this Ceph keeps members of groups: the cluster and librbd are of one version here."""
    return int(ceph.ceph("version").split()[2].split(".")[0]) >= 20


@pytest.fixture(params=["", "space"])
def directory(ceph: Ceph, request: pytest.FixtureRequest) -> Iterator[str]:
    """A pool or namespace with a member of group `g` in it, `vm`."""
    with ceph.temporary_pool() as pool:
        directory = pool
        if request.param:
            directory = f"{pool}/{request.param}"
            ceph.rbd("namespace", "create", directory)
        import_image(ceph, f"{directory}/vm", DATA)
        ceph.rbd("group", "create", f"{directory}/g")
        ceph.rbd("group", "image", "add", f"{directory}/g", f"{directory}/vm")
        yield directory


@pytest.fixture
def mount(mounting: Mounting, directory: str) -> Iterator[Mount]:
    with mounting(directory, "-o", "manage") as mount:
        yield mount


def refused(ceph: Ceph, mount: Mount, directory: str, action: str) -> None:
    """The image is where it was; the log says what of, and how to take it out."""
    mount.expect_log(
        rf"{action} is refused: {directory}/vm is in group {directory}/g: "
        rf"`rbd group image rm {directory}/g {directory}/vm` takes it out"
    )
    assert export_image(ceph, f"{directory}/vm") == DATA == mount.file("vm").read_bytes()
    assert trashed(ceph, directory) == []
    ceph.rbd("group", "image", "rm", f"{directory}/g", f"{directory}/vm")


def test_removing(ceph: Ceph, mount: Mount, directory: str) -> None:
    if kept(ceph):
        assert refusal(mount.file("vm").unlink) == "EBUSY"
        refused(ceph, mount, directory, f"removing {directory}/vm")
    mount.file("vm").unlink()
    assert os.listdir(mount.path) == []
    assert trashed(ceph, directory) == ["vm"]


def test_renaming_over(ceph: Ceph, mount: Mount, directory: str) -> None:
    import_image(ceph, f"{directory}/new", NEW)
    if kept(ceph):
        assert refusal(lambda: mount.file("new").rename(mount.file("vm"))) == "EBUSY"
        assert mount.file("new").read_bytes() == NEW
        refused(ceph, mount, directory, f"renaming {directory}/new to .*")
    mount.file("new").rename(mount.file("vm"))
    assert mount.file("vm").read_bytes() == NEW == export_image(ceph, f"{directory}/vm")
    assert trashed(ceph, directory) == ["vm"]


def test_renaming_itself(ceph: Ceph, mount: Mount, directory: str) -> None:
    """It is in the group by its id."""
    mount.file("vm").rename(mount.file("other"))
    assert mount.file("other").read_bytes() == DATA
    assert ceph.rbd("group", "image", "ls", f"{directory}/g").strip() == f"{directory}/other"
