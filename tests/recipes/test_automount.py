"""Mounting by systemd: what it makes of fstab and of the units, and what it then runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.images import MIB, import_image, random_bytes
from tests.support.recipes import POOL, need

if TYPE_CHECKING:
    from tests.support.ceph import Ceph
    from tests.support.recipes import Machine

GENERATOR = "/usr/lib/systemd/system-generators/systemd-fstab-generator"


def settings(here: Machine, unit: str) -> dict[str, str]:
    lines = here.shell(f"cat {unit}").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and line[0] != "#")


def mount_as_systemd(here: Machine, unit: dict[str, str]) -> None:
    """Do what a mount unit does (systemd's mount.c), look, and end it."""
    options = unit["Options"]
    here.shell(f"mount {unit['What']} {unit['Where']} -t {unit['Type']} -o {options}")
    assert [path.name for path in here.path(Path(unit["Where"])).iterdir()] == ["vm1"]
    assert "ro,nosuid,nodev" in here.shell(f"findmnt -n -o OPTIONS {unit['Where']}")
    here.shell(f"umount {unit['Where']} -c")


def test_automount(ceph: Ceph, here: Machine) -> None:
    need("systemd-analyze", GENERATOR, "mount.fuse3")
    if not Path("/etc/fstab").exists():
        pytest.skip("there is no /etc/fstab to mount another one on")
    recipe = "automount"
    import_image(ceph, f"{POOL}/vm1", random_bytes(MIB))
    here.follow(recipe, "A line of fstab")
    assert "vm1" in here.follow(recipe, "By hand")
    when = {"Where": "/srv/rbd", "TimeoutIdleSec": "10min"}
    here.shell(f"mkdir units early late; {GENERATOR} units early late")
    here.shell("systemd-analyze verify --man=no units/srv-rbd.automount units/srv-rbd.mount")
    assert settings(here, "units/srv-rbd.automount").items() >= when.items()
    mount_as_systemd(here, settings(here, "units/srv-rbd.mount"))
    here.follow(recipe, "Two units")
    assert settings(here, "/etc/systemd/system/srv-rbd.automount").items() >= when.items()
    mount_as_systemd(here, settings(here, "/etc/systemd/system/srv-rbd.mount"))
