"""What can be mounted: a pool, a namespace, all pools, and one image on a file."""

from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING

import pytest
import rbd

from tests.support.ceph import run
from tests.support.conditions import SEEN_S, eventually
from tests.support.images import MIB, export_image, import_image, open_image, random_bytes
from tests.support.mounts import RBDFS, Mount, mounted, opened

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mounting

DATA = random_bytes(MIB)


@pytest.fixture(scope="module")
def tenants(ceph: Ceph, pool: str) -> str:
    """A pool with images `vm` and `both`, and namespaces `tenant` (image `vm`) and `both`."""
    import_image(ceph, f"{pool}/vm", b"pool")
    import_image(ceph, f"{pool}/both", b"image")
    for namespace in ("tenant", "both", "empty"):
        ceph.rbd("namespace", "create", f"{pool}/{namespace}")
    import_image(ceph, f"{pool}/tenant/vm", b"tenant")
    ceph.rbd("snap", "create", "--no-progress", f"{pool}/tenant/vm@s")
    import_image(ceph, f"{pool}/both/inside", b"namespace")
    return pool


@pytest.fixture
def image(ceph: Ceph, pool: str, image_name: str) -> str:
    """An image with `DATA` in it, which snapshot `s` has too, but for its first bytes."""
    import_image(ceph, f"{pool}/{image_name}", b"before" + DATA[6:])
    ceph.rbd("snap", "create", "--no-progress", f"{pool}/{image_name}@s")
    with open_image(ceph, pool, image_name) as handle:
        handle.write(DATA[:6], 0)
    return image_name


def file_mount(mounting: Mounting, source: str, *arguments: str) -> Mount:
    """A mount on a file; it has no option but those in the source and the arguments."""
    path = mounting.directory / "disk.raw"
    path.write_bytes(b"below the mount")
    command = [str(RBDFS), "-f", *arguments, "--", source, str(path)]
    return Mount(command, path, mounting.directory / "log")


def test_namespaces_are_directories(tenants: str, mounting: Mounting) -> None:
    with mounting(tenants) as mount:
        assert sorted(os.listdir(mount.path)) == ["@both", "both", "empty", "tenant", "vm"]
        assert mount.file("vm").read_bytes() == b"pool"
        assert sorted(os.listdir(mount.file("tenant"))) == ["vm", "vm@s"]
        assert mount.file("tenant/vm").read_bytes() == b"tenant"
        assert mount.file("tenant/vm@s").read_bytes() == b"tenant"
        assert os.listdir(mount.file("empty")) == []
        for missing in ("tenant/tenant", "tenant/@tenant", "tenant/nothing", "@nothing/vm"):
            assert not mount.file(missing).exists()


def test_namespace_with_the_name_of_an_image(tenants: str, mounting: Mounting) -> None:
    with mounting(tenants) as mount:
        assert mount.file("both").read_bytes() == b"image"
        assert mount.file("@both").is_dir()
        assert mount.file("@both/inside").read_bytes() == b"namespace"
        # Always an alias, listed or not, and the same directory.
        assert mount.file("@tenant/vm").read_bytes() == b"tenant"
        assert mount.file("@tenant").samefile(mount.file("tenant"))


def test_directory_tools_find_what_is_in_namespaces(tenants: str, mounting: Mounting) -> None:
    with mounting(tenants) as mount:
        found = run("find", str(mount.path), "-type", "f", "-printf", "%P\\n").split("\n")
        assert sorted(found) == ["", "@both/inside", "both", "tenant/vm", "tenant/vm@s", "vm"]
        # Five files, of which each has one block or a few.
        total = int(run("du", "-s", "--apparent-size", "-B1", str(mount.path)).split()[0])
        assert total == len("pool") + len("image") + 2 * len("tenant") + len("namespace")


def test_namespace_made_and_removed(ceph: Ceph, tenants: str, mounting: Mounting) -> None:
    with mounting(tenants) as mount:
        assert not mount.file("late").exists()
        ceph.rbd("namespace", "create", f"{tenants}/late")
        eventually(lambda: mount.file("late").is_dir(), SEEN_S, "the namespace")
        ceph.rbd("namespace", "remove", f"{tenants}/late")
        eventually(lambda: not mount.file("late").exists(), SEEN_S, "its end")


def test_one_namespace(tenants: str, mounting: Mounting) -> None:
    with mounting(f"{tenants}/tenant") as mount:
        assert sorted(os.listdir(mount.path)) == ["vm", "vm@s"]
        assert mount.file("vm").read_bytes() == b"tenant"
        assert run("df", "--output=source", str(mount.path)).split()[-1] == f"{tenants}/tenant"
        with opened(mount.file("vm"), os.O_RDWR) as file:
            assert os.pwrite(file, b"TENANT", 0) == 6
            os.pwrite(file, b"tenant", 0)
    # As a shell completes it.
    with mounting(f"{tenants}/empty/") as mount:
        assert os.listdir(mount.path) == []


def test_all_pools(ceph: Ceph, tenants: str, mounting: Mounting) -> None:
    with ceph.temporary_pool(application=False) as hidden, mounting(None) as mount:
        names = os.listdir(mount.path)
        assert {tenants, "rbd"} <= set(names)
        assert hidden not in names
        assert not mount.file(hidden).exists()
        assert not mount.file("no-such-pool").exists()
        assert mount.file(f"{tenants}/tenant/vm").read_bytes() == b"tenant"
        assert mount.file(f"{tenants}/@both/inside").read_bytes() == b"namespace"
        found = run("find", str(mount.file(tenants)), "-type", "f").split()
        assert len(found) == 5
        with opened(mount.file(f"{tenants}/vm"), os.O_RDWR) as file:
            assert os.pwrite(file, b"pool", 0) == 4


def test_all_pools_usage(ceph: Ceph, tenants: str, mounting: Mounting) -> None:
    with mounting(None) as mount:
        eventually(lambda: os.statvfs(mount.path).f_bavail, 30.0, "the usage of all pools")
        status = os.statvfs(mount.path)
        # Pools share their disks: the throw-away OSD has 4 GiB, however many pools there are.
        assert 0 < status.f_bavail * status.f_frsize <= 4096 * MIB
        assert run("df", "--output=fstype", str(mount.path)).split()[-1] == "fuse.rbdfs"
        used = int(run("du", "-s", "-B1", str(mount.file(tenants))).split()[0])
        assert used == 5 * 512


def test_pools_made_and_removed(ceph: Ceph, tenants: str, mounting: Mounting) -> None:
    # The native data path looks the new pool up by name in an OSD map that may be old.
    with mounting(None, "-o", "datapath=python") as mount:
        with ceph.temporary_pool() as late:
            eventually(lambda: late in os.listdir(mount.path), SEEN_S, "the pool")
            import_image(ceph, f"{late}/vm", b"first")
            eventually(mount.file(f"{late}/vm").exists, SEEN_S, "its image")
            assert mount.file(f"{late}/vm").read_bytes() == b"first"
            ceph.remove_pool(late)
            eventually(lambda: late not in os.listdir(mount.path), SEEN_S, "the pool's end")
            eventually(lambda: not mount.file(late).exists(), SEEN_S, "the end of its name")
            # Another pool, with another id, under the same name.
            ceph.ceph("osd", "pool", "create", late)
            ceph.rbd("pool", "init", late)
            import_image(ceph, f"{late}/vm", b"second")
            eventually(mount.file(f"{late}/vm").exists, SEEN_S, "the new pool's image")
            assert mount.file(f"{late}/vm").read_bytes() == b"second"
        assert mount.file(f"{tenants}/vm").read_bytes() == b"pool"


def test_image_on_a_file(ceph: Ceph, pool: str, image: str, mounting: Mounting) -> None:
    with file_mount(mounting, f"rbd:{pool}/{image}:conf={ceph.conf}:id=rw") as mount:
        assert mount.path.read_bytes() == DATA
        assert mount.path.stat().st_size == MIB
        assert run("df", "--output=source", str(mount.path)).split()[-1] == f"rbd:{pool}/{image}"
        with opened(mount.path, os.O_RDWR) as file:
            assert os.pwrite(file, b"changed", MIB - 7) == 7
            assert len(ceph.lock_owners(f"{pool}/{image}")) == 1
        info = run("qemu-img", "info", "-f", "raw", str(mount.path))
        assert "virtual size: 1 MiB" in info
    assert mount.path.read_bytes() == b"below the mount"
    assert export_image(ceph, f"{pool}/{image}") == DATA[:-7] + b"changed"
    assert ceph.watchers(f"{pool}/{image}") == []


def test_snapshot_on_a_file(ceph: Ceph, pool: str, image: str, mounting: Mounting) -> None:
    source = f"rbd:{pool}/{image}@s:id=ro:conf={ceph.conf}:rbd_cache=false"
    with file_mount(mounting, source) as mount:
        assert mount.path.read_bytes() == b"before" + DATA[6:]
        with pytest.raises(OSError, match="Read-only file system"):
            os.open(mount.path, os.O_RDWR)
        with pytest.raises(NotADirectoryError):
            (mount.path / "below").stat()


def test_qemu_escapes(ceph: Ceph, pool: str, ioctx: object, mounting: Mounting) -> None:
    rbd.RBD().create(ioctx, "a/b@c:d", MIB)
    with rbd.Image(ioctx, "a/b@c:d") as handle:
        handle.write(b"odd name", 0)
        handle.create_snap("x:y/z")
    for snap in ("", "@x\\:y\\/z"):
        source = f"rbd:{pool}/a\\/b\\@c\\:d{snap}:conf={ceph.conf}"
        with file_mount(mounting, source) as mount:
            assert mount.path.read_bytes()[:8] == b"odd name"


def test_settings_of_the_file_name(
    ceph: Ceph, pool: str, image: str, mounting: Mounting, tmp_path: Path
) -> None:
    keyring = tmp_path / "a:key@ring"
    keyring.write_text(ceph.keyring("rw").read_text())
    hosts = re.findall(r"mon[ _]host *= *(.*)", ceph.conf.read_text())[0]
    escaped = str(keyring).replace(":", "\\:").replace("@", "\\@")
    source = (
        f"rbd:{pool}/{image}:id=rw:conf=/dev/null:mon_host={hosts.replace(':', chr(92) + ':')}"
        f":keyring={escaped}"
    )
    with file_mount(mounting, source) as mount:
        assert mount.path.read_bytes() == DATA


@pytest.mark.parametrize(
    ("source", "exit_code", "pattern"),
    [
        ("rbd:{pool}/nothing:conf={conf}", 1, "no such image: {pool}/nothing$"),
        ("rbd:{pool}/nothing@s:conf={conf}", 1, "no such image: {pool}/nothing$"),
        ("rbd:{pool}/{image}@nothing:conf={conf}", 1, "no such snapshot: {pool}/{image}@nothing$"),
        ("rbd:{pool}/nowhere/{image}:conf={conf}", 1, "no such namespace: {pool}/nowhere$"),
        ("rbd:nowhere/{image}:conf={conf}", 1, "no such pool: nowhere$"),
        ("rbd:{pool}/{image}:conf=/nothing.conf", 1, "/nothing.conf"),
        ("rbd:{pool}/{image}:conf={conf}:no_such_setting=1", 2, "no_such_setting"),
        ("rbd:{pool}/{image}:conf={conf}:", 2, "has no value"),
        ("rbd:{image}", 2, "a pool name is required, as in rbd:POOL/IMAGE"),
    ],
)
def test_file_names_that_cannot_be(
    ceph: Ceph, pool: str, image: str, mounting: Mounting, source: str, exit_code: int, pattern: str
) -> None:
    path = mounting.directory / "disk.raw"
    path.touch()
    names = {"pool": pool, "image": image, "conf": str(ceph.conf)}
    command = [str(RBDFS), "-f", "--", source.format(**names), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (exit_code, "")
    assert re.search(pattern.format(**names), done.stderr)
    assert done.stderr.count("\n") == 1
    assert not mounted(path)


def test_mount_point_of_the_wrong_kind(
    ceph: Ceph, pool: str, image: str, mounting: Mounting
) -> None:
    directory = mounting.mountpoint()
    for source, path, complaint in (
        (f"rbd:{pool}/{image}", directory, "is not a regular file"),
        (pool, directory.with_suffix(".raw"), "is not a directory"),
    ):
        directory.with_suffix(".raw").touch()
        command = [*mounting.command(source, path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert (done.returncode, done.stdout) == (1, "")
        assert re.fullmatch(f"rbdfs: .*{complaint}.*\n", done.stderr)
        assert not mounted(path)
