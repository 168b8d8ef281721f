"""What a mount asks of a cluster, which contrib/mixed runs with clusters of other versions.

RBDFS_TEST_ELSEWHERE names the pool that a client of such a version has filled and holds images of.
Without it one of this version does.
"""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import changed, elsewhere
from tests.support.ceph import run
from tests.support.conditions import SEEN_S, eventually
from tests.support.elsewhere import CLONES, HELD, KINDS, MIGRATING, NAMESPACE, SHARED, SIZE, TRASHED
from tests.support.images import MIB, export_image, import_image, open_image, random_bytes
from tests.support.mounts import opened
from tests.support.moves import (
    PENDING,
    assert_nothing_left,
    make,
    move,
    wait_until_done,
    whole_cluster,
)
from tests.support.refusals import refusal
from tests.support.servers import killed_server
from tests.support.space import PUNCH, fallocate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount, Mounting

DATA = random_bytes(6 * MIB)
READABLE = [
    *(name for kind in KINDS for name in (kind, f"{kind}@before")),
    *CLONES,
    *(MIGRATING, HELD, SHARED),
]


@pytest.fixture(scope="module")
def filled(ceph: Ceph) -> Iterator[str]:
    """The pool that another client has filled."""
    pool = os.environ.get("RBDFS_TEST_ELSEWHERE")
    if pool:
        yield pool
        return
    with ceph.temporary_pool("elsewhere") as pool, elsewhere.filled(ceph.conf, pool):
        yield pool


@pytest.fixture(scope="module")
def there(module_mounting: Mounting, filled: str) -> Iterator[Mount]:
    """A mount of that pool."""
    with module_mounting(filled, "-o", "manage", lifetime_s=180.0) as mount:
        mount.allow_log(PENDING)
        yield mount


@pytest.fixture(scope="module")
def mount(module_mounting: Mounting, pool: str) -> Iterator[Mount]:
    """A mount of a pool of our own."""
    options = ("-o", "manage=snapshots,partitions")
    with module_mounting(pool, *options, lifetime_s=180.0) as mount:
        yield mount


@pytest.fixture
def path(ceph: Ceph, pool: str, image_name: str, mount: Mount) -> Path:
    """An image with DATA, made through the mount."""
    mount.file(image_name).write_bytes(DATA)
    return mount.file(image_name)


def rbd_json(ceph: Ceph, *arguments: str) -> Any:
    return json.loads(ceph.rbd(*arguments, "--format=json"))


def listed(ceph: Ceph, spec: str) -> dict[str, int]:
    """The names and sizes that `rbd ls -l` has."""
    found = {}
    for line in rbd_json(ceph, "ls", "-l", spec):
        snapshot = line.get("snapshot")
        found[line["image"] + (f"@{snapshot}" if snapshot else "")] = line["size"]
    return found


def shown(directory: Path) -> dict[str, int]:
    with os.scandir(directory) as entries:
        return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}


def trash_id(ceph: Ceph, pool: str, name: str) -> str:
    found = [entry["id"] for entry in rbd_json(ceph, "trash", "ls", pool) if entry["name"] == name]
    assert len(found) == 1
    image_id: str = found[0]
    return image_id


# What was made elsewhere


def test_names_and_sizes(ceph: Ceph, filled: str, there: Mount) -> None:
    names = listed(ceph, filled)
    assert {*READABLE, *CLONES} <= names.keys()
    assert shown(there.path) == names
    assert shown(there.file(NAMESPACE)) == listed(ceph, f"{filled}/{NAMESPACE}")


@pytest.mark.parametrize("name", READABLE)
def test_content(there: Mount, name: str) -> None:
    assert there.file(name).read_bytes() == elsewhere.content(name)


def test_content_in_a_namespace(there: Mount) -> None:
    for name in ("mapped", "mapped@before"):
        assert there.file(f"{NAMESPACE}/{name}").read_bytes() == elsewhere.content(name)


def test_writing_what_was_made_elsewhere(ceph: Ceph, filled: str, there: Mount) -> None:
    """Each kind, and a clone, of which the first write copies an object."""
    for name in (*KINDS, "clone-2", MIGRATING):
        expected = bytearray(elsewhere.content(name))
        with opened(there.file(name), os.O_RDWR) as file:
            for off, length in ((2 * MIB, 5000), (4 * MIB - 1000, 3000)):
                # What the tests of the same content, before or after this one, look for.
                part = bytes(expected[off : off + length])
                assert os.pwrite(file, random_bytes(length), off) == length
                os.fsync(file)
                assert os.pwrite(file, part, off) == length
            os.fsync(file)
        assert export_image(ceph, f"{filled}/{name}") == expected


def test_taken_out_of_the_trash(ceph: Ceph, filled: str, there: Mount) -> None:
    assert TRASHED not in os.listdir(there.path)
    ceph.rbd("trash", "restore", "-p", filled, trash_id(ceph, filled, TRASHED))
    eventually(there.file(TRASHED).exists, SEEN_S, "the image")
    assert there.file(TRASHED).read_bytes() == elsewhere.content(TRASHED)
    there.file(TRASHED).unlink()
    assert TRASHED not in listed(ceph, filled)
    assert trash_id(ceph, filled, TRASHED)


def test_lock_that_is_held_elsewhere(ceph: Ceph, filled: str, there: Mount) -> None:
    spec, path = f"{filled}/{HELD}", there.file(HELD)
    owners = ceph.lock_owners(spec)
    assert len(owners) == 1
    assert os.getxattr(path, "user.rbd.lock_owner").decode().split()[0] == owners[0]
    assert refusal(lambda: os.open(path, os.O_RDWR)) == "EBUSY"
    assert refusal(lambda: os.truncate(path, 2 * SIZE)) == "EBUSY"
    assert refusal(path.unlink) == "EBUSY"
    # It has not been disturbed.
    assert ceph.lock_owners(spec) == owners == ceph.watchers(spec)


def test_lock_that_is_passed(ceph: Ceph, filled: str, there: Mount, mounting: Mounting) -> None:
    spec = f"{filled}/{SHARED}"
    owners = ceph.lock_owners(spec)
    assert len(owners) == 1
    assert refusal(lambda: os.open(there.file(SHARED), os.O_RDWR)) == "EBUSY"
    with (
        mounting(filled, "-o", "lock=auto") as mount,
        opened(mount.file(SHARED), os.O_RDWR) as file,
    ):
        assert os.pwrite(file, elsewhere.content(SHARED)[:MIB], 0) == MIB
        os.fsync(file)
        taken = ceph.lock_owners(spec)
        assert len(taken) == 1
        assert taken != owners
        assert set(ceph.watchers(spec)) == {*owners, *taken}
    assert export_image(ceph, spec) == elsewhere.content(SHARED)


# What is made here


def test_writing(ceph: Ceph, pool: str, mounting: Mounting, path: Path) -> None:
    spec, expected = f"{pool}/{path.name}", bytearray(DATA)
    with mounting(pool) as second, opened(path, os.O_RDWR) as file:
        for off, length in ((0, 512), (4 * MIB - 5, 10), (5 * MIB, 70_000)):
            expected[off : off + length] = random_bytes(length, seed=off)
            assert os.pwrite(file, expected[off : off + length], off) == length
        os.fsync(file)
        assert export_image(ceph, spec) == expected
        assert path.read_bytes() == expected
        assert len(ceph.lock_owners(spec)) == 1
        assert ceph.watchers(spec) == ceph.lock_owners(spec)
        assert refusal(lambda: os.open(second.file(path.name), os.O_RDWR)) == "EBUSY"
    eventually(lambda: not ceph.watchers(spec), what="the end of the watch")
    assert ceph.lock_owners(spec) == []


@pytest.mark.usefixtures("native")
def test_discarding(ceph: Ceph, pool: str, path: Path) -> None:
    with opened(path, os.O_RDWR) as file:
        fallocate(file, PUNCH, MIB + 1, 4 * MIB)
        os.fsync(file)
    expected = DATA[: MIB + 1] + bytes(4 * MIB) + DATA[5 * MIB + 1 :]
    assert export_image(ceph, f"{pool}/{path.name}") == path.read_bytes() == expected


def test_snapshots_and_clones(ceph: Ceph, pool: str, mount: Mount, path: Path) -> None:
    spec, here, other = f"{pool}/{path.name}", f"{path.name}@here", f"{path.name}@elsewhere"
    run("ln", str(path), str(mount.file(here)))
    ceph.rbd("snap", "create", "--no-progress", f"{pool}/{other}")
    with opened(path, os.O_RDWR) as file:
        os.pwrite(file, b"after", 0)
    eventually(mount.file(other).exists, SEEN_S, "the snapshot")
    clone = mount.file(f"{path.name}-clone")
    run("ln", str(mount.file(here)), str(clone))
    for name in (here, other, clone.name):
        assert mount.file(name).read_bytes() == export_image(ceph, f"{pool}/{name}") == DATA
    parent = rbd_json(ceph, "info", f"{pool}/{clone.name}")["parent"]
    assert (parent["pool"], parent["image"], parent["snapshot"]) == (pool, path.name, "here")
    assert os.getxattr(clone, "user.rbd.parent").decode() == f"{pool}/{here}"
    with opened(clone, os.O_RDWR) as file:
        os.pwrite(file, b"clone", 4 * MIB)
    assert export_image(ceph, f"{pool}/{clone.name}") == clone.read_bytes() != DATA
    assert mount.file(here).read_bytes() == DATA
    mount.file(other).unlink()
    assert [snap["name"] for snap in rbd_json(ceph, "snap", "ls", spec)] == ["here"]


def test_resize(ceph: Ceph, pool: str, path: Path) -> None:
    spec = f"{pool}/{path.name}"
    for size in (9 * MIB + 512, 2 * MIB, 3 * MIB):
        os.truncate(path, size)
        assert rbd_json(ceph, "info", spec)["size"] == path.stat().st_size == size
    assert export_image(ceph, spec) == path.read_bytes() == DATA[: 2 * MIB] + bytes(MIB)
    ceph.rbd("resize", "--no-progress", "--size=8M", spec)
    eventually(lambda: path.stat().st_size == 8 * MIB, SEEN_S, "the new size")
    ceph.rbd("resize", "--no-progress", "--allow-shrink", "--size=1M", spec)
    eventually(lambda: path.stat().st_size == MIB, SEEN_S, "the new size")
    assert path.read_bytes() == DATA[:MIB]


def test_removed_and_restored(ceph: Ceph, pool: str, mount: Mount, path: Path) -> None:
    run("ln", str(path), f"{path}@s")
    run("rm", "-f", str(path))
    assert path.name not in listed(ceph, pool)
    assert path.name not in os.listdir(mount.path)
    ceph.rbd("trash", "restore", "-p", pool, trash_id(ceph, pool, path.name))
    eventually(path.exists, SEEN_S, "the image")
    assert path.read_bytes() == mount.file(f"{path.name}@s").read_bytes() == DATA
    run("mv", str(path), f"{path}-renamed")
    assert export_image(ceph, f"{pool}/{path.name}-renamed@s") == DATA


def test_extended_attributes(ceph: Ceph, pool: str, path: Path) -> None:
    spec = f"{pool}/{path.name}"
    run("setfattr", "-n", "user.rbd.meta.owner", "-v", "me", str(path))
    assert ceph.rbd("image-meta", "get", spec, "owner").strip() == "me"
    info = rbd_json(ceph, "info", spec)
    found = {name: os.getxattr(path, f"user.rbd.{name}").decode() for name in ("id", "size")}
    assert found == {"id": info["id"], "size": str(info["size"])}
    features = os.getxattr(path, "user.rbd.features").decode()
    assert set(info["features"]) <= set(features.replace("_", "-").split(","))
    os.chown(path, 1234, 1234)
    assert ceph.rbd("image-meta", "get", spec, "rbdfs.uid").strip() == "1234"


def test_partitions(ceph: Ceph, pool: str, mount: Mount, path: Path) -> None:
    run("sfdisk", "-q", str(path), stdin=b"label: gpt\n,2M\n,2M\n")
    parts = [mount.file(f"{path.name}-part{number}") for number in (1, 2)]
    eventually(parts[1].exists, SEEN_S, "the partitions")
    assert [part.stat().st_size for part in parts] == [2 * MIB, 2 * MIB]
    with opened(parts[1], os.O_RDWR) as file:
        os.pwrite(file, b"second", 0)
    data = export_image(ceph, f"{pool}/{path.name}")
    assert data[3 * MIB :].startswith(b"second")
    assert parts[0].read_bytes() == data[MIB : 3 * MIB]


@pytest.mark.usefixtures("native")
def test_server_that_is_killed(ceph: Ceph, pool: str, mounting: Mounting, path: Path) -> None:
    """The next one fences it, takes its locks, and opens its files."""
    with mounting(pool) as mount, opened(mount.file(path.name), os.O_RDWR) as file:
        old = ceph.lock_owners(f"{pool}/{path.name}")
        os.pwrite(file, b"before", 0)
        killed_server(mount)
        assert os.pwrite(file, b"after", 0) == 5
        os.fsync(file)
        assert set(old) <= set(ceph.blocklist())
        assert ceph.lock_owners(f"{pool}/{path.name}") != old
    assert export_image(ceph, f"{pool}/{path.name}") == b"aftere" + DATA[6:]


# Between pools


def test_moves(ceph: Ceph, pools: tuple[str, str], mounting: Mounting, image_name: str) -> None:
    """One with a snapshot to another pool while it is open, one without into a namespace."""
    hdd, ssd = pools
    data = make(ceph, f"{hdd}/{image_name}", snapshot=True, size=8 * MIB)
    before = export_image(ceph, f"{hdd}/{image_name}@before")
    import_image(ceph, f"{hdd}/{image_name}-bare", DATA)
    with whole_cluster(mounting, program=changed.program(notice=0.5)) as mount:
        source, target = (mount.file(f"{pool}/{image_name}") for pool in pools)
        space = mount.file(f"{ssd}/tenant")
        space.mkdir()
        with opened(source, os.O_RDWR) as file:
            move(source, target)
            move(mount.file(f"{hdd}/{image_name}-bare"), space / "bare")
            assert (space / "bare").read_bytes() == DATA
            assert os.pwrite(file, b"here", 0) == 4
            assert os.pread(file, len(data), 0) == b"here" + data[4:]
            wait_until_done(mount, image_name)
            assert os.pread(file, len(data), 0) == b"here" + data[4:]
        wait_until_done(mount, "bare")
        assert mount.file(f"{ssd}/{image_name}@before").read_bytes() == before
    assert export_image(ceph, f"{ssd}/{image_name}") == b"here" + data[4:]
    assert export_image(ceph, f"{ssd}/{image_name}@before") == before
    assert export_image(ceph, f"{ssd}/tenant/bare") == DATA
    for name in (image_name, f"{image_name}-bare"):
        assert_nothing_left(ceph, hdd, name)


def test_migration_by_another_client(
    ceph: Ceph, pools: tuple[str, str], mounting: Mounting, image_name: str
) -> None:
    source, target = (f"{pool}/{image_name}" for pool in pools)
    import_image(ceph, source, DATA)
    with mounting(pools[0]) as old, mounting(pools[1]) as new:
        new.allow_log(PENDING)
        path, expected = new.file(image_name), b"here" + DATA[4:]
        assert old.file(image_name).read_bytes() == DATA
        ceph.rbd("migration", "prepare", source, target)
        eventually(path.exists, SEEN_S, "the image where it goes")
        with opened(path, os.O_RDWR) as file:
            assert os.pwrite(file, b"here", 0) == 4
            assert os.pread(file, len(DATA), 0) == expected
            ceph.rbd("migration", "execute", "--no-progress", target)
            assert os.pread(file, len(DATA), 0) == expected
        ceph.rbd("migration", "commit", "--no-progress", target)
        assert path.read_bytes() == expected
        eventually(lambda: image_name not in os.listdir(old.path), SEEN_S, "the end of the source")
    assert export_image(ceph, target) == expected


def test_copies_in_and_out(ceph: Ceph, pool: str, mount: Mount, path: Path, tmp_path: Path) -> None:
    copy = mount.file(f"{path.name}-copy")
    subprocess.run(["cp", "--sparse=always", path, copy], check=True, timeout=60)
    subprocess.run(["cp", copy, tmp_path / "out"], check=True, timeout=60)
    assert (tmp_path / "out").read_bytes() == export_image(ceph, f"{pool}/{copy.name}") == DATA
    with open_image(ceph, pool, copy.name) as image:
        image.write(b"other", 0)
        assert refusal(lambda: os.open(copy, os.O_RDWR)) == "EBUSY"
    assert copy.read_bytes()[:5] == b"other"
