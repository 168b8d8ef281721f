"""Backups: what was not written to is not read, and what is restored is what was there."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from tests.support.images import MIB, export_image, import_image, random_bytes
from tests.support.recipes import POOL, need, write

if TYPE_CHECKING:
    from tests.support.ceph import Ceph
    from tests.support.recipes import Machine

DISK = 16 * MIB
RESTIC = "restic --repo /srv/backup --password-file ~/restic-password"
BORG = "BORG_REPO=/srv/backup BORG_PASSCOMMAND='cat /srv/home/root/borg-password' borg"


@pytest.fixture
def images(ceph: Ceph, here: Machine) -> dict[str, bytes]:
    """Two images, and what is in them; with the script that makes their snapshots."""
    images = {f"vm{number}": random_bytes(DISK, seed=number) for number in (1, 2)}
    for name, data in images.items():
        import_image(ceph, f"{POOL}/{name}", data)
    here.follow("nightly-snapshots", "The script")
    return images


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
    here.follow("backup-restic", "The script")

    def night() -> tuple[str, ...]:
        said = here.follow("backup-restic", "Each night")
        found = re.search(r"Files: +(\d+) new, +(\d+) changed, +(\d+) unmodified", said)
        assert found is not None, said
        return found.groups()

    assert night() == ("2", "0", "0")
    stored = stored_by_restic(here)
    assert stored > 2 * DISK * 0.9
    assert night() == ("0", "0", "2")
    # It ends with nothing mounted however it ends: the next night it would not begin.
    here.shell("mv restic-password away; ! backup-vms; mv away restic-password")
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
    here.follow("backup-borg", "The script")
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
