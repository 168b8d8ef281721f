"""What stat(2) and statfs(2) say: sizes, modes, owners and times are true."""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.ceph import run
from tests.support.conditions import SEEN_S, eventually
from tests.support.images import MIB, import_image, open_image

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount, Mounting

NOBODY = 65534


@pytest.fixture
def image(ceph: Ceph, pool: str, image_name: str) -> str:
    """An image of 5000 bytes with a snapshot `s`, and an access and a change after that."""
    import_image(ceph, f"{pool}/{image_name}", b"x" * 5000)
    ceph.rbd("snap", "create", "--no-progress", f"{pool}/{image_name}@s")
    with open_image(ceph, pool, image_name) as image:
        image.read(0, 100)
        image.write(b"y", 0)
    return image_name


@pytest.fixture
def public(mounting: Mounting) -> Iterator[Path]:
    """A mount point that other users can reach."""
    with tempfile.TemporaryDirectory(prefix="rbdfs-public-") as name:
        path = Path(name, "mnt")
        path.mkdir()
        path.parent.chmod(0o755)
        yield path


def modes(mount: Mount, image: str) -> list[int]:
    paths = (mount.path, mount.file(image), mount.file(f"{image}@s"))
    return [stat.S_IMODE(path.stat().st_mode) for path in paths]


def seconds(timestamp: datetime) -> int:
    # The binding gives a naive time in UTC.
    return int(timestamp.replace(tzinfo=UTC).timestamp())


def stat_as_nobody(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["head", "-c", "1", path], user=NOBODY, group=NOBODY, capture_output=True, text=True
    )


def test_sizes_modes_and_owner(image: str, mount: Mount) -> None:
    status, snap = mount.file(image).stat(), mount.file(f"{image}@s").stat()
    assert (status.st_size, snap.st_size) == (5000, 5000)
    # Full size: GNU tar takes a file without blocks for one hole.
    assert (status.st_blocks, snap.st_blocks) == (10, 10)
    assert (status.st_nlink, snap.st_nlink) == (1, 1)
    assert stat.S_ISREG(status.st_mode)
    assert modes(mount, image) == [0o700, 0o600, 0o400]
    for path in (mount.path, mount.file(image), mount.file(f"{image}@s")):
        assert (path.stat().st_uid, path.stat().st_gid) == (os.getuid(), os.getgid())
    assert status.st_ino != snap.st_ino


def test_times_are_the_cluster_s(ceph: Ceph, pool: str, image: str, mount: Mount) -> None:
    def times(handle: Any) -> list[int]:
        stamps = (handle.access_timestamp(), handle.modify_timestamp(), handle.create_timestamp())
        return [seconds(stamp) for stamp in stamps]

    with open_image(ceph, pool, image, read_only=True) as handle:
        expected = times(handle)
        snap_id = next(snap["id"] for snap in handle.list_snaps())
        snapped = seconds(handle.get_snap_timestamp(snap_id))
    status, snap = mount.file(image).stat(), mount.file(f"{image}@s").stat()
    assert [int(status.st_atime), int(status.st_mtime), int(status.st_ctime)] == expected
    assert {int(snap.st_atime), int(snap.st_mtime), int(snap.st_ctime)} == {snapped}


def test_looking_changes_no_time(image: str, mounting: Mounting, pool: str) -> None:
    def looked_at() -> list[tuple[int, int, int, int]]:
        with mounting(pool) as mount:
            found = []
            for name in (image, f"{image}@s"):
                mount.file(name).read_bytes()
                status = mount.file(name).stat()
                times = (status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns)
                found.append((*times, status.st_ino))
            return found

    # The inode numbers survive a remount, too.
    assert looked_at() == looked_at()


def test_a_mask_for_directories_alone(image: str, mounting: Mounting, pool: str) -> None:
    with mounting(pool, "-o", "dmask=066") as mount:
        assert modes(mount, image) == [0o711, 0o600, 0o400]
    with mounting(pool, "-o", "dmask=022,umask=007") as mount:
        assert modes(mount, image) == [0o755, 0o660, 0o440]


def test_uid_gid_and_umask(image: str, mounting: Mounting, pool: str) -> None:
    with mounting(pool, "-o", "uid=1234,gid=5678,umask=027") as mount:
        assert modes(mount, image) == [0o750, 0o640, 0o440]
        for path in (mount.path, mount.file(image), mount.file(f"{image}@s")):
            assert (path.stat().st_uid, path.stat().st_gid) == (1234, 5678)


def test_others_are_kept_out(image: str, mounting: Mounting, pool: str, public: Path) -> None:
    with mounting(pool, "-o", "umask=000", mountpoint=public) as mount:
        done = stat_as_nobody(mount.file(image))
        assert (done.returncode, done.stdout) == (1, "")
        assert "Permission denied" in done.stderr


@pytest.mark.parametrize(("umask", "output"), [("000", "y"), ("007", "")])
def test_others_are_let_in_as_the_modes_say(
    image: str, mounting: Mounting, pool: str, public: Path, umask: str, output: str
) -> None:
    with mounting(pool, "-o", f"allow_other,umask={umask}", mountpoint=public) as mount:
        done = stat_as_nobody(mount.file(image))
        assert done.stdout == output
        assert ("Permission denied" in done.stderr) == (not output)


def test_change_elsewhere_is_seen(ceph: Ceph, pool: str, image: str, mount: Mount) -> None:
    path = mount.file(image)
    assert path.stat().st_size == 5000
    assert not mount.file(f"{image}@late").exists()
    ceph.rbd("resize", "--no-progress", "--size=1M", f"{pool}/{image}")
    ceph.rbd("snap", "create", "--no-progress", f"{pool}/{image}@late")
    eventually(lambda: path.stat().st_size == MIB, SEEN_S, "the new size")
    eventually(mount.file(f"{image}@late").exists, SEEN_S, "the new snapshot")
    ceph.rbd("mv", f"{pool}/{image}", f"{pool}/{image}-renamed")
    eventually(mount.file(f"{image}-renamed").exists, SEEN_S, "the new name")
    eventually(lambda: not path.exists(), SEEN_S, "the end of the old name")


def test_names_that_are_not_there(image: str, mount: Mount) -> None:
    for name in ("nothing", f"{image}@nothing", f"{image}@", "@", "@nothing", "a%", "%2f", "%C3"):
        with pytest.raises(FileNotFoundError):
            mount.file(name).stat()
    with pytest.raises(OSError, match="File name too long"):
        mount.file("x" * 300).stat()
    with pytest.raises(NotADirectoryError):
        (mount.file(image) / "x").stat()
    assert mount.alive


def test_statfs_and_df(ceph: Ceph, mounting: Mounting) -> None:
    with mounting("rbd") as mount:
        status = os.statvfs(mount.path)
        assert status.f_namemax == 255
        available = status.f_bavail * status.f_frsize
        assert 0 < available <= status.f_blocks * status.f_frsize
        # The throw-away OSD has 4 GiB.
        assert available <= 4096 * MIB
        source, kind = run("df", "--output=source,fstype", str(mount.path)).split()[-2:]
        assert (source, kind) == ("rbd", "fuse.rbdfs")


def test_statfs_of_a_new_pool(ceph: Ceph, mounting: Mounting) -> None:
    """Until the mgr has told the mon of it, the cluster does not know the pool's usage."""
    name = f"new-{os.urandom(4).hex()}"
    with ceph.stalled("mgr.x"), ceph.connect() as cluster:
        cluster.create_pool(name)
        try:
            with mounting(name) as mount:
                assert os.statvfs(mount.path).f_namemax == 255
        finally:
            cluster.delete_pool(name)
