"""Which snapshots are files, as `-o snapshots=` says."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import rbd

from tests.support.ceph import run
from tests.support.conditions import SEEN_S, eventually
from tests.support.images import MIB, import_image
from tests.support.refusals import refusal

if TYPE_CHECKING:
    from tests.support.ceph import Ceph
    from tests.support.mounts import Mounting

FEATURES = rbd.RBD_FEATURE_LAYERING


@dataclass(frozen=True)
class Snapshots:
    """Image `vm` of the pool, and the ids of its snapshots by what they are.

    The image had the name of each as its content when it was taken.
    """

    pool: str
    ids: dict[str, int]

    def by_id(self, name: str) -> str:
        return f"vm@id:{self.ids[name]}"


@pytest.fixture(scope="module")
def snapshots(ceph: Ceph, pool: str, ioctx: Any) -> Snapshots:
    """Image `vm` with a snapshot of each kind, and `clone`, which keeps one in the trash."""
    rbd.RBD().create(ioctx, "vm", MIB, features=FEATURES)
    ceph.rbd("mirror", "pool", "enable", pool, "image")
    ceph.rbd("group", "create", f"{pool}/group")
    ceph.rbd("group", "image", "add", f"{pool}/group", f"{pool}/vm")
    ids: dict[str, int] = {}

    with rbd.Image(ioctx, "vm") as image:

        def taken(name: str) -> None:
            ids[name] = next(s["id"] for s in image.list_snaps() if s["id"] not in ids.values())

        image.write(b"user", 0)
        image.create_snap("user")
        taken("user")
        image.write(b"trash", 0)
        image.create_snap("trash")
        taken("trash")
        image.write(b"group", 0)
        rbd.Group(ioctx, "group").create_snap("of-group")
        taken("group")
        image.write(b"mirror", 0)
        image.mirror_image_enable(rbd.RBD_MIRROR_IMAGE_MODE_SNAPSHOT)
        taken("mirror")
        image.write(b"now...", 0)
    # A clone of this format needs no protected parent: the snapshot goes to the trash instead.
    ceph.rbd("clone", "--rbd-default-clone-format=2", f"{pool}/vm@trash", f"{pool}/clone")
    with rbd.Image(ioctx, "vm") as image:
        image.remove_snap("trash")
        kinds = {snap["id"]: snap["namespace"] for snap in image.list_snaps()}
    assert kinds == {
        ids["user"]: rbd.RBD_SNAP_NAMESPACE_TYPE_USER,
        ids["trash"]: rbd.RBD_SNAP_NAMESPACE_TYPE_TRASH,
        ids["group"]: rbd.RBD_SNAP_NAMESPACE_TYPE_GROUP,
        ids["mirror"]: rbd.RBD_SNAP_NAMESPACE_TYPE_MIRROR,
    }
    return Snapshots(pool, ids)


@pytest.mark.parametrize(
    ("option", "listed"),
    [
        ("visible", ["clone", "vm", "vm@user"]),
        ("hidden", ["clone", "vm"]),
        ("off", ["clone", "vm"]),
        ("all", ["clone", "vm", "vm@user"]),
    ],
)
def test_listed(snapshots: Snapshots, mounting: Mounting, option: str, listed: list[str]) -> None:
    with mounting(snapshots.pool, "-o", f"snapshots={option}") as mount:
        assert sorted(os.listdir(mount.path)) == listed
        assert mount.file("vm").read_bytes()[:6] == b"now..."
        assert mount.file("vm@user").exists() == (option != "off")
        # What Ceph calls a snapshot that is not the user's is nobody's file name.
        names = {snap for snap in snapshots.ids if mount.file(f"vm@{snap}").exists()}
        assert names == (set() if option == "off" else {"user"})
        found = {snap for snap in snapshots.ids if mount.file(snapshots.by_id(snap)).exists()}
        assert found == (set(snapshots.ids) if option == "all" else set())


@pytest.mark.parametrize("data_path", ["native", "python"])
def test_by_id(snapshots: Snapshots, mounting: Mounting, data_path: str) -> None:
    with mounting(snapshots.pool, "-o", f"snapshots=all,datapath={data_path}") as mount:
        for name in snapshots.ids:
            path = mount.file(snapshots.by_id(name))
            assert path.read_bytes()[: len(name)] == name.encode()
            assert path.stat().st_size == MIB
            with pytest.raises(OSError, match="Read-only file system"):
                os.open(path, os.O_RDWR)
        assert mount.file(snapshots.by_id("user")).samefile(mount.file("vm@user"))
        for missing in ("vm@id:0", "vm@id:99999999", "vm@id:-1", "vm@id:1x", "vm@id:"):
            assert not mount.file(missing).exists()


def test_hidden_ones_are_not_copied_but_opened(snapshots: Snapshots, mounting: Mounting) -> None:
    with mounting(snapshots.pool, "-o", "snapshots=hidden") as mount:
        found = run("find", str(mount.path), "-type", "f", "-printf", "%P\\n").split()
        assert sorted(found) == ["clone", "vm"]
        assert mount.file("vm@user").read_bytes()[:4] == b"user"
        # Once it has been opened by name, it still is not listed.
        assert sorted(os.listdir(mount.path)) == ["clone", "vm"]


def test_renamed_snapshot(ioctx: Any, snapshots: Snapshots, mounting: Mounting) -> None:
    with mounting(snapshots.pool) as mount, mount.file("vm@user").open("rb") as file:
        inode = os.fstat(file.fileno()).st_ino
        with rbd.Image(ioctx, "vm") as image:
            image.rename_snap("user", "renamed")
        try:
            eventually(mount.file("vm@renamed").exists, SEEN_S, "the new name")
            eventually(lambda: not mount.file("vm@user").exists(), SEEN_S, "the old name's end")
            # The open file is the same snapshot still, whose inode it keeps.
            assert mount.file("vm@renamed").stat().st_ino == inode
            assert file.read(4) == b"user"
        finally:
            with rbd.Image(ioctx, "vm") as image:
                image.rename_snap("renamed", "user")


def test_clone_reads_through_its_parent(snapshots: Snapshots, mounting: Mounting) -> None:
    with mounting(snapshots.pool) as mount:
        assert mount.file("clone").read_bytes()[:5] == b"trash"


def test_names_go_with_their_image(
    ceph: Ceph, pool: str, image_name: str, mounting: Mounting
) -> None:
    """The kernel answers for no snapshot by a name that its image has had."""
    import_image(ceph, f"{pool}/{image_name}", b"content")
    with mounting(pool, "-o", "manage") as mount:
        old, new = (mount.file(f"{image_name}{end}") for end in ("", "-new"))
        eventually(old.exists, SEEN_S, "the image")
        os.link(old, f"{old}@s")
        assert Path(f"{old}@s").read_bytes() == b"content"
        old.rename(new)
        assert refusal(lambda: os.stat(f"{old}@s")) == "ENOENT"
        assert Path(f"{new}@s").read_bytes() == b"content"
        new.unlink()
        assert refusal(lambda: os.stat(f"{new}@s")) == "ENOENT"
