"""Clones are links of snapshots to names of images."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support import crashes
from tests.support.ceph import CommandError, run
from tests.support.conditions import SEEN_S, eventually
from tests.support.images import MIB, export_image, import_image, random_bytes
from tests.support.mounts import opened
from tests.support.moves import whole_cluster
from tests.support.refusals import refusal
from tests.support.servers import wait_for_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount, Mounting

SIZE = 4 * MIB + 512
KILLED = r"ERROR .*server \d+ was killed \(signal 9\)"
HALF = "left out of the listing: image '.*-vm' of .*, or what is left of it"
PROTECTED = r"INFO .* is protected: require-min-compat-client"


@pytest.fixture(scope="module")
def managed(module_mounting: Mounting, pool: str) -> Iterator[Mount]:
    with module_mounting(pool, "-o", "manage=snapshots,partitions") as mount:
        mount.allow_log(HALF)
        yield mount


@pytest.fixture
def golden(ceph: Ceph, pool: str, managed: Mount, image_name: str) -> Path:
    """The file of snapshot `v1` of an image."""
    import_image(ceph, f"{pool}/{image_name}", random_bytes(SIZE))
    ceph.rbd("snap", "create", "--no-progress", f"{pool}/{image_name}@v1")
    file = managed.file(f"{image_name}@v1")
    eventually(file.exists, SEEN_S, "the snapshot")
    return file


def parent(ceph: Ceph, spec: str) -> str:
    found = json.loads(ceph.rbd("info", "--format=json", spec)).get("parent", {})
    namespace = f"{found['pool_namespace']}/" if found.get("pool_namespace") else ""
    return f"{found['pool']}/{namespace}{found['image']}@{found['snapshot']}"


def test_clones_are_links(ceph: Ceph, pool: str, golden: Path) -> None:
    image, clone = golden.name.removesuffix("@v1"), golden.with_name(f"{golden.name[:-3]}-vm")
    run("ln", str(golden), str(clone))
    assert clone.stat().st_size == SIZE
    assert clone.read_bytes() == random_bytes(SIZE)
    assert parent(ceph, f"{pool}/{clone.name}") == f"{pool}/{image}@v1"
    assert os.getxattr(clone, "user.rbd.parent") == f"{pool}/{image}@v1".encode()
    with opened(clone, os.O_RDWR) as file:
        assert os.pwrite(file, b"its own", 77) == 7
    assert golden.read_bytes() == random_bytes(SIZE)
    changed = bytearray(random_bytes(SIZE))
    changed[77:84] = b"its own"
    assert export_image(ceph, f"{pool}/{clone.name}") == changed
    with pytest.raises(CommandError, match="File exists"):
        run("ln", str(golden), str(clone))


def test_a_snapshot_with_clones_stays(ceph: Ceph, pool: str, golden: Path, managed: Mount) -> None:
    clone = golden.with_name(f"{golden.name[:-3]}-vm")
    os.link(golden, clone)
    assert refusal(lambda: os.unlink(golden)) == "EBUSY"
    managed.expect_log(rf"removing {pool}/\S+ is refused: it has clones: {pool}/{clone.name}")
    os.unlink(clone)
    assert refusal(lambda: os.unlink(golden)) == "EBUSY"
    managed.expect_log(rf"it has clones: {pool}/{clone.name} \(in the trash\)")
    ceph.rbd("trash", "purge", "--no-progress", pool)
    ceph.rbd("snap", "unprotect", f"{pool}/{golden.name}")
    os.unlink(golden)
    eventually(lambda: not golden.exists(), SEEN_S, "its end")


def test_clones_elsewhere(
    ceph: Ceph, pools: tuple[str, str], mounting: Mounting, image_name: str
) -> None:
    """In another pool, and in a namespace."""
    one, other = pools
    import_image(ceph, f"{one}/{image_name}", random_bytes(SIZE))
    ceph.rbd("snap", "create", "--no-progress", f"{one}/{image_name}@v1")
    ceph.rbd("namespace", "create", f"{other}/ns")
    with whole_cluster(mounting) as mount:
        golden, clone = mount.file(f"{one}/{image_name}@v1"), mount.file(f"{other}/{image_name}-vm")
        os.link(golden, clone)
        assert clone.read_bytes() == random_bytes(SIZE)
        assert parent(ceph, f"{other}/{clone.name}") == f"{one}/{image_name}@v1"
        # In the list of pools; and of format 1, with which this cluster is content.
        assert refusal(lambda: os.link(golden, mount.file("x"))) == "EPERM"
        assert refusal(lambda: os.link(golden, mount.file(f"{other}/ns/x"))) == "EXDEV"


def test_refused(golden: Path, mounting: Mounting, pool: str) -> None:
    assert refusal(lambda: os.link(golden, golden.with_name("x@y"))) == "EPERM"
    assert refusal(lambda: os.link(golden, golden.with_name("x@%id:3"))) == "EINVAL"
    with mounting(pool) as mount:
        assert refusal(lambda: os.link(mount.file(golden.name), mount.file("vm"))) == "EPERM"
    with mounting(pool, "-o", "manage,ro") as mount:
        assert refusal(lambda: os.link(mount.file(golden.name), mount.file("vm"))) == "EROFS"


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize(
    "step", ["barely clone", "half clone", "after rbdfs.names.manage:Management.change"]
)
def test_made_by_a_server_that_is_killed(
    ceph: Ceph, pool: str, golden: Path, mounting: Mounting, step: str
) -> None:
    """The kernel asks the next one, which finds it made, or makes it."""
    control = mounting.directory / "step"
    control.write_text(step)
    program = [sys.executable, crashes.__file__, str(control)]
    with mounting(pool, "-o", "manage", program=program) as mount:
        mount.expect_log(KILLED)
        mount.allow_log(HALF)
        clone = mount.file(f"{golden.name[:-3]}-vm")
        os.link(mount.file(golden.name), clone)
        wait_for_server(mount, 2)
        assert clone.read_bytes() == random_bytes(SIZE)
        assert mount.alive


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("step", ["clone without parent", "nearly clone"])
def test_left_unfinished_by_a_server_that_is_killed(
    ceph: Ceph, pool: str, golden: Path, mounting: Mounting, step: str
) -> None:
    """It stays, because nobody knows whose image it is, and is no success.

    librbd makes it without its parent first, and so of zeros. The snapshot is told of it at last:
    until then it can be removed.
    """
    control = mounting.directory / "step"
    control.write_text(step)
    program = [sys.executable, crashes.__file__, str(control)]
    with mounting(pool, "-o", "manage", program=program) as mount:
        mount.expect_log(KILLED)
        source, clone = mount.file(golden.name), mount.file(f"{golden.name[:-3]}-vm")
        assert refusal(lambda: os.link(source, clone)) == "EEXIST"
        wait_for_server(mount, 2)
        clone.unlink()
        os.link(source, clone)
        assert clone.read_bytes() == random_bytes(SIZE)
