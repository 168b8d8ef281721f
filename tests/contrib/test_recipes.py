"""contrib/recipes: each does what it says, word for word, with the real tools."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.boot_sector import BOOT_SECTOR
from tests.support.ceph import run
from tests.support.images import MIB, export_image, import_image, open_image, random_bytes
from tests.support.recipes import POOL, RECIPES, Machine, machine, need, recipes, sections

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.ceph import Ceph

DISK = 16 * MIB
RESTIC = "restic --repo /srv/backup --password-file ~/restic-password"
BORG = "BORG_REPO=/srv/backup BORG_PASSCOMMAND='cat /srv/home/root/borg-password' borg"


@pytest.fixture
def pool(ceph: Ceph) -> Iterator[str]:
    """The pool that the recipes speak of."""
    ceph.ceph("osd", "pool", "create", POOL)
    try:
        ceph.rbd("pool", "init", POOL)
        yield POOL
    finally:
        ceph.remove_pool(POOL)


@pytest.fixture
def here(ceph: Ceph, pool: str, tmp_path: Path) -> Iterator[Machine]:
    if os.geteuid() or not os.path.exists("/dev/fuse"):
        pytest.skip("needs root and /dev/fuse")
    with machine(ceph, tmp_path) as here:
        yield here


def test_every_recipe_is_in_the_index() -> None:
    index = (RECIPES / "README.md").read_text()
    listed = re.findall(r"^\| \[(.*?)\]\((.*?)\) \|", index, re.MULTILINE)
    assert all(text == target for text, target in listed)
    assert sorted(target for _, target in listed) == [f"{name}.md" for name in recipes()]


def test_every_block_is_run() -> None:
    """Each heading with a block under it is named here, and no block is in another language."""
    tests = Path(__file__).read_text()
    for recipe in recipes():
        assert f'"{recipe}"' in tests
        fences = re.findall(r"^ *```.*", (RECIPES / f"{recipe}.md").read_text(), re.MULTILINE)
        assert set(fences) == {"```sh", "```"}
        for heading in sections(recipe):
            assert f'"{heading}"' in tests, f"{recipe}: {heading}"


@pytest.fixture
def images(ceph: Ceph, here: Machine) -> dict[str, bytes]:
    """Two images, and what is in them; with the script that makes their snapshots."""
    images = {f"vm{number}": random_bytes(DISK, seed=number) for number in (1, 2)}
    for name, data in images.items():
        import_image(ceph, f"{POOL}/{name}", data)
    here.follow("nightly-snapshots", "The script")
    return images


def write(ceph: Ceph, name: str, data: bytes, offset: int) -> None:
    """What the machine whose disk this is does at day."""
    with open_image(ceph, POOL, name) as image:
        image.write(data, offset)


def test_nightly_snapshots(ceph: Ceph, here: Machine, images: dict[str, bytes]) -> None:
    def night() -> dict[str, tuple[int, int]]:
        here.follow("nightly-snapshots", "Each night")
        found = {}
        for name in images:
            (snap,) = json.loads(ceph.rbd("snap", "ls", "--format=json", f"{POOL}/{name}"))
            found[name] = snap["id"], snap["size"]
        return found

    first = night()
    assert night() == first
    write(ceph, "vm1", b"written", DISK // 2)
    second = night()
    assert second["vm1"] != first["vm1"]
    assert second["vm2"] == first["vm2"]
    # Of this `rbd diff` has nothing to say.
    ceph.rbd("resize", "--no-progress", f"--size={DISK // MIB + 1}", f"{POOL}/vm2")
    third = night()
    assert third["vm1"] == second["vm1"]
    assert third["vm2"][1] == DISK + MIB
    assert export_image(ceph, f"{POOL}/vm1@nightly")[DISK // 2 :].startswith(b"written")


def stored_by_restic(here: Machine) -> int:
    stats = here.shell(f"{RESTIC} stats --json --mode raw-data")
    size: int = json.loads(stats)["total_size"]
    return size


def test_restic(ceph: Ceph, here: Machine, images: dict[str, bytes]) -> None:
    need("restic")
    here.follow("backup-restic", "Once")

    def night() -> tuple[str, ...]:
        said = here.follow("backup-restic", "Each night")
        found = re.search(r"Files: +(\d+) new, +(\d+) changed, +(\d+) unmodified", said)
        assert found is not None, said
        return found.groups()

    assert night() == ("2", "0", "0")
    stored = stored_by_restic(here)
    assert stored > 2 * DISK * 0.9
    assert night() == ("0", "0", "2")
    write(ceph, "vm1", b"written", DISK // 2)
    assert night() == ("0", "1", "1")
    # restic's pieces have up to 8 MiB.
    assert 0 < stored_by_restic(here) - stored < DISK
    check_restore(ceph, here, "backup-restic")
    here.follow("backup-restic", "Forget what is old")


def stored_by_borg(here: Machine) -> int:
    (archive,) = json.loads(here.shell(f"{BORG} info --json --last 1"))["archives"]
    size: int = archive["stats"]["deduplicated_size"]
    return size


def test_borg(ceph: Ceph, here: Machine, images: dict[str, bytes]) -> None:
    need("borg")
    here.follow("backup-borg", "Once")
    here.follow("backup-borg", "Each night")
    assert stored_by_borg(here) > 2 * DISK * 0.9
    here.follow("backup-borg", "Each night")
    assert stored_by_borg(here) < MIB
    write(ceph, "vm1", b"written", DISK // 2)
    here.follow("backup-borg", "Each night")
    # One object.
    assert 4 * MIB * 0.9 < stored_by_borg(here) < 5 * MIB
    check_restore(ceph, here, "backup-borg")
    here.follow("backup-borg", "Forget what is old")


def check_restore(ceph: Ceph, here: Machine, recipe: str) -> None:
    """Restore vm1, which something has happened to since its backup."""
    backup = export_image(ceph, f"{POOL}/vm1@nightly")
    write(ceph, "vm1", bytes(DISK), 0)
    here.follow(recipe, "Restore in place")
    assert export_image(ceph, f"{POOL}/vm1") == backup
    here.follow(recipe, "Restore beside it")
    assert export_image(ceph, f"{POOL}/vm1-restored") == backup
    here.follow(recipe, "Compare")


def test_try_a_snapshot(ceph: Ceph, here: Machine) -> None:
    need("qemu-nbd", "qemu-system-x86_64")
    disk = BOOT_SECTOR + bytes(2 * MIB - len(BOOT_SECTOR))
    import_image(ceph, f"{POOL}/vm1", disk)
    ceph.rbd("snap", "create", "--no-progress", f"{POOL}/vm1@nightly")
    recipe = "try-a-snapshot"
    here.follow(recipe, "An overlay")
    here.follow(recipe, "Boot it")
    here.follow(recipe, "Serve it as a network block device")
    here.follow(recipe, "Keep it")
    tried = bytearray(disk)
    tried[512:1024] = BOOT_SECTOR
    tried[MIB : MIB + 4096] = b"\x55" * 4096
    assert export_image(ceph, f"{POOL}/vm1-tried") == tried
    here.follow(recipe, "Throw it away")
    for unchanged in ("vm1", "vm1@nightly"):
        assert export_image(ceph, f"{POOL}/{unchanged}") == disk


HOSTS = "127.0.0.1 localhost\n"


@pytest.fixture
def disk(ceph: Ceph, pool: str, tmp_path: Path) -> None:
    """vm1@nightly, a disk with an EFI system partition and an ext4."""
    tree, disk = tmp_path / "tree", tmp_path / "disk"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/hosts").write_text(HOSTS)
    (tree / "home/user").mkdir(parents=True)
    (tree / "home/user/notes").write_text("notes of a user")
    (tree / "boot.efi").write_text("of the firmware")
    with disk.open("wb") as file:
        file.truncate(32 * MIB)
    run("sfdisk", "-q", str(disk), stdin=b"label: gpt\n,8M,U\n,20M\n")
    fat = f"{disk}@@{MIB}"
    run("mformat", "-i", fat, "-T", str(8 * MIB // 512), "-h", "16", "-s", "63", "::")
    run("mmd", "-i", fat, "::/EFI")
    run("mcopy", "-i", fat, str(tree / "boot.efi"), "::/EFI")
    ext4 = ("mke2fs", "-q", "-t", "ext4", "-d", str(tree), "-E", f"offset={9 * MIB}")
    run(*ext4, str(disk), "20M")
    import_image(ceph, f"{POOL}/vm1", disk.read_bytes())
    ceph.rbd("snap", "create", "--no-progress", f"{POOL}/vm1@nightly")


@pytest.mark.usefixtures("disk")
def test_files_without_root(here: Machine) -> None:
    need("mcopy", "blkid")
    recipe, home = "files-of-a-snapshot", here.path(Path("/srv/home/nobody"))

    def follow(heading: str) -> str:
        return here.follow(recipe, heading, as_user=True)

    found = follow("Which partition")
    assert re.findall(r'-part(\d): .*TYPE="(vfat|ext4)"', found) == [("1", "vfat"), ("2", "ext4")]
    follow("From ext4")
    follow("From ext4, with its journal")
    for name in ("hosts", "hosts-replayed"):
        assert (home / name).read_text() == HOSTS
    assert (home / "home/user/notes").read_text() == "notes of a user"
    follow("From FAT")
    assert (home / "EFI/boot.efi").read_text() == "of the firmware"
    follow("The end")


@pytest.mark.usefixtures("disk")
def test_files_as_root(here: Machine) -> None:
    here.follow("files-of-a-snapshot", "As root")
    assert here.path(Path("/srv/home/root/hosts")).read_text() == HOSTS


@pytest.fixture
def xfs(ceph: Ceph, pool: str, tmp_path: Path) -> None:
    """vm2@nightly, an xfs on a disk without partitions, of the least size that mkfs.xfs makes."""
    need("mkfs.xfs")
    hosts, layout, disk = tmp_path / "hosts", tmp_path / "layout", tmp_path / "disk"
    hosts.write_text(HOSTS)
    root, file = "d--755 0 0", f"hosts ---644 0 0 {hosts}"
    layout.write_text(f"none\n0 0\n{root}\netc {root}\n{file}\n$\n$\n")
    run("mkfs.xfs", "-q", "-p", str(layout), "-d", f"file,name={disk},size=300m")
    ceph.rbd("import", "--no-progress", str(disk), f"{POOL}/vm2")
    ceph.rbd("snap", "create", "--no-progress", f"{POOL}/vm2@nightly")


@pytest.mark.usefixtures("xfs")
def test_files_as_root_with_xfs(here: Machine) -> None:
    if "\txfs\n" not in Path("/proc/filesystems").read_text():
        pytest.skip("the kernel has no xfs")
    here.follow("files-of-a-snapshot", "As root, with xfs")
    assert here.path(Path("/srv/home/root/hosts")).read_text() == HOSTS


@pytest.mark.slow
@pytest.mark.usefixtures("xfs")
def test_files_with_guestfish(here: Machine) -> None:
    need("guestfish")
    if not any(os.access(kernel, os.R_OK) for kernel in Path("/boot").glob("vmlinuz-*")):
        pytest.skip("guestfish needs a kernel in /boot")
    recipe = "files-of-a-snapshot"
    here.shell("mkdir -p ~/vms; rbdfs --id ro -o ro,partitions vms ~/vms", as_user=True)
    assert "/dev/sda: xfs" in here.follow(recipe, "From all others", as_user=True)
    assert here.path(Path("/srv/home/nobody/hosts")).read_text() == HOSTS
    here.follow(recipe, "The end", as_user=True)
