"""libvirt with its defaults on a mount: domains start, and a directory pool makes their volumes."""

from __future__ import annotations

import json
import os
import shutil
from stat import S_IMODE
from typing import TYPE_CHECKING

import pytest

from tests.support.images import MIB, import_image, random_bytes
from tests.support.libvirt import PROGRAMS, QEMU, Libvirt, domain, libvirt_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mounting

FOR_VOLUMES = "manage,allow_other,dmask=066"
LIFETIME_S = 120.0


@pytest.fixture(scope="module")
def libvirt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Libvirt]:
    for program in PROGRAMS:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed (contrib/setup installs it)")
    if os.geteuid():
        pytest.skip("needs root")
    with libvirt_in(tmp_path_factory.mktemp("libvirt")) as started:
        yield started


@pytest.fixture
def public(libvirt: Libvirt, image_name: str) -> Path:
    """A mount point that QEMU's user can reach."""
    path = libvirt.reachable / image_name
    path.mkdir()
    return path


def owned(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_uid, status.st_gid, S_IMODE(status.st_mode)


def watchers(ceph: Ceph, spec: str) -> int:
    return len(json.loads(ceph.rbd("status", "--format=json", spec))["watchers"])


@pytest.mark.parametrize(
    ("options", "running", "ended"),
    [
        (FOR_VOLUMES, (QEMU, QEMU, 0o600), (0, 0, 0o600)),
        (f"allow_other,uid={QEMU}", (QEMU, 0, 0o600), (QEMU, 0, 0o600)),
        (f"allow_other,gid={QEMU},umask=007", (0, QEMU, 0o660), (0, QEMU, 0o660)),
        ("allow_other,umask=000", (0, 0, 0o666), (0, 0, 0o666)),
        (f"manage,quiet,allow_other,uid={QEMU}", (QEMU, QEMU, 0o600), (QEMU, 0, 0o600)),
    ],
    ids=lambda value: value.replace("=", " ") if isinstance(value, str) else "",
)
def test_a_domain_starts(
    ceph: Ceph,
    pool: str,
    image_name: str,
    mounting: Mounting,
    libvirt: Libvirt,
    public: Path,
    tmp_path: Path,
    options: str,
    running: tuple[int, int, int],
    ended: tuple[int, int, int],
) -> None:
    import_image(ceph, f"{pool}/{image_name}", random_bytes(MIB))
    with mounting(pool, "-o", options, mountpoint=public, lifetime_s=LIFETIME_S) as mount:
        path, file = mount.file(image_name), tmp_path / "domain.xml"
        file.write_text(domain(image_name, (path, "raw")))
        libvirt.virsh("define", str(file))
        libvirt.virsh("start", image_name)
        assert libvirt.virsh("domstate", image_name).strip() == "running"
        assert owned(path) == running
        assert watchers(ceph, f"{pool}/{image_name}") == 1
        libvirt.virsh("destroy", image_name)
        assert owned(path) == ended
        assert path.read_bytes() == random_bytes(MIB)
        libvirt.virsh("undefine", image_name)


# Without fallocate(2) glibc writes a byte into each block of a new volume.
@pytest.mark.usefixtures("native")
def test_a_directory_pool(
    ceph: Ceph, mounting: Mounting, libvirt: Libvirt, public: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.write_bytes(random_bytes(2 * MIB))
    with (
        ceph.temporary_pool() as pool,
        mounting(pool, "-o", FOR_VOLUMES, mountpoint=public, lifetime_s=LIFETIME_S) as mount,
    ):
        file = tmp_path / "domain.xml"
        file.write_text(domain("guest", (mount.file("raw"), "raw"), (mount.file("cow"), "qcow2")))
        libvirt.virsh("pool-define-as", "rbdfs", "dir", "--target", str(public))
        libvirt.virsh("pool-start", "rbdfs")
        libvirt.virsh("vol-create-as", "rbdfs", "raw", "64M")
        libvirt.virsh("vol-create-as", "rbdfs", "cow", "64M", "--format", "qcow2")
        libvirt.virsh("vol-upload", "raw", str(data), "--pool", "rbdfs")
        libvirt.virsh("create", str(file))
        assert [owned(mount.file(name)) for name in ("raw", "cow")] == [(QEMU, QEMU, 0o600)] * 2
        libvirt.virsh("destroy", "guest")
        libvirt.virsh("vol-clone", "raw", "copy", "--pool", "rbdfs")
        libvirt.virsh("vol-resize", "copy", "96M", "--pool", "rbdfs")
        libvirt.virsh("vol-delete", "cow", "--pool", "rbdfs")
        assert sorted(ceph.rbd("ls", pool).split()) == ["copy", "raw"]
        sizes = [mount.file(name).stat().st_size for name in ("raw", "copy")]
        assert sizes == [64 * MIB, 96 * MIB]
        for name in ("raw", "copy"):
            with mount.file(name).open("rb") as volume:
                assert volume.read(2 * MIB) == random_bytes(2 * MIB)
        libvirt.virsh("pool-destroy", "rbdfs")
        libvirt.virsh("pool-undefine", "rbdfs")
