"""What the process itself may run out of, or lose: descriptors, its log, its terminal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import resource
import stat
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import rbd

from tests.support.conditions import eventually
from tests.support.images import MIB, export_image, import_image, random_bytes
from tests.support.mounts import RBDFS, TIMEOUT_S, mounted, opened
from tests.support.refusals import refusal
from tests.support.servers import ask, kill_server, server_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mounting

NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


def as_nobody(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*NOBODY, *command], capture_output=True, text=True, timeout=TIMEOUT_S, cwd="/"
    )


def test_descriptor_limit(ceph: Ceph, pool: str, image: str, mounting: Mounting) -> None:
    """An open that has no descriptor left fails; what is open goes on."""
    with mounting(pool) as mount, opened(mount.file(image), os.O_RDWR) as file:
        server = server_of(mount) or mount.pid
        used = len(os.listdir(f"/proc/{server}/fd"))
        mount.allow_log("(?s)(WARNING|ERROR) .*")
        limits = resource.prlimit(server, resource.RLIMIT_NOFILE)
        resource.prlimit(server, resource.RLIMIT_NOFILE, (used, limits[1]))
        files = []
        try:
            for number in range(8):
                name = f"{image}-{number}"
                import_image(ceph, f"{pool}/{name}", random_bytes(MIB, seed=number))
                with contextlib.suppress(OSError):
                    files.append(os.open(mount.file(name), os.O_RDWR))
            os.pwrite(file, b"still", 0)
            os.fsync(file)
            assert os.pread(file, MIB, 0)[:5] == b"still"
            assert mount.alive
        finally:
            resource.prlimit(server, resource.RLIMIT_NOFILE, limits)
            for other in files:
                os.close(other)
        assert mount.file(f"{image}-7").read_bytes() == random_bytes(MIB, seed=7)

    assert export_image(ceph, f"{pool}/{image}")[:5] == b"still"


@pytest.mark.usefixtures("native")
def test_more_images_than_descriptors(
    ceph: Ceph, pool: str, image_name: str, mounting: Mounting, ioctx: Any
) -> None:
    """An open image takes none."""
    names = [f"{image_name}-{number}" for number in range(80)]
    for name in names:
        rbd.RBD().create(ioctx, name, MIB, features=rbd.RBD_FEATURE_LAYERING)
    few = ["prlimit", "--nofile=64:64", str(RBDFS)]
    with mounting(pool, program=few) as mount, contextlib.ExitStack() as stack:
        files = [stack.enter_context(opened(mount.file(name), os.O_RDWR)) for name in names]
        for number, file in enumerate(files):
            os.pwrite(file, b"%d" % number, 0)
            os.fsync(file)
        assert mount.alive
    for number in (0, 79):
        assert export_image(ceph, f"{pool}/{names[number]}").rstrip(b"\0") == b"%d" % number


@pytest.mark.usefixtures("native")
def test_keeper_without_a_descriptor_left(pool: str, image: str, mounting: Mounting) -> None:
    """No successor can be started, for now."""
    with mounting(pool) as mount:
        mount.expect_log(
            "ERROR .*server 1 was killed", "ERROR .*cannot start a server: .*Too many open"
        )
        limits = resource.prlimit(mount.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(mount.pid, resource.RLIMIT_NOFILE, (5, limits[1]))
        kill_server(mount)
        eventually(lambda: "cannot start" in mount.log_text, what="the failure")
        resource.prlimit(mount.pid, resource.RLIMIT_NOFILE, limits)
        assert mount.file(image).read_bytes() == random_bytes(MIB)
        assert mount.alive


@pytest.mark.usefixtures("native")
def test_log_that_takes_nothing(pool: str, image: str, mounting: Mounting) -> None:
    with mounting(pool, "-d", "--log-file", "/dev/full") as mount:
        assert mount.file(image).read_bytes() == random_bytes(MIB)
        kill_server(mount)
        assert mount.file(image).read_bytes() == random_bytes(MIB)
        assert mount.alive


@pytest.mark.parametrize("foreground", [[], ["-f"]], ids=["daemon", "foreground"])
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_standard_descriptors_closed(
    pool: str, image: str, mounting: Mounting, foreground: list[str], closed: str
) -> None:
    """Whatever is opened first must not become what is printed to."""
    path = mounting.mountpoint()
    command = mounting.command(pool, path, *foreground)
    with subprocess.Popen(["sh", "-c", f'exec "$@" {closed}', "sh", *command]) as process:
        try:
            eventually(lambda: mounted(path), what="the mount")
            assert (path / image).read_bytes() == random_bytes(MIB)
        finally:
            subprocess.run(["umount", "-l", path], check=True)
        assert process.wait(TIMEOUT_S) == 0


def test_mount_flags_and_log_file(
    pool: str, image: str, mounting: Mounting, tmp_path: Path
) -> None:
    log = tmp_path / "rbdfs.log"
    umask = os.umask(0)
    try:
        with mounting(pool, "-d", "--log-file", str(log)) as mount:
            flags = os.statvfs(mount.path).f_flag
            assert flags & os.ST_NOSUID
            assert flags & os.ST_NODEV
            assert mount.file(image).read_bytes() == random_bytes(MIB)
            assert stat.S_IMODE(mount.file(image).stat().st_mode) == 0o600
            assert stat.S_IMODE(mount.path.stat().st_mode) == 0o700
    finally:
        os.umask(umask)
    assert stat.S_IMODE(log.stat().st_mode) == 0o640
    key = (mounting.ceph.keyring("admin").read_text().split("key = ")[1]).split()[0]
    assert key not in log.read_text()
    assert key not in mount.log_text


def test_other_users(ceph: Ceph, pool: str, image: str, mounting: Mounting) -> None:
    with mounting(pool) as mount:
        # The directories above are the mounting user's too.
        for path in (mount.path, *mount.path.parents):
            if path.stat().st_mode & 0o001 == 0 and path != mount.path:
                path.chmod(path.stat().st_mode | 0o011)
        for command in ("ls", "stat"):
            done = as_nobody(command, str(mount.path))
            assert "Permission denied" in done.stderr, done
        # The kernel answers statfs by itself, and tells nothing.
        assert "Blocks: Total: 0 " in as_nobody("stat", "-f", str(mount.path)).stdout
        done = as_nobody("cat", str(mount.file(image)))
        assert "Permission denied" in done.stderr
        assert mount.alive


def test_allow_other(ceph: Ceph, pool: str, image: str, mounting: Mounting) -> None:
    ceph.rbd("snap", "create", "--no-progress", f"{pool}/{image}@s")
    options = "allow_other,uid=65534,gid=65534,umask=027"
    with mounting(pool, "-o", options) as mount:
        for path in mount.path.parents:
            path.chmod(path.stat().st_mode | 0o011)
        status = mount.file(image).stat()
        assert (status.st_uid, status.st_gid) == (65534, 65534)
        assert stat.S_IMODE(status.st_mode) == 0o640
        assert stat.S_IMODE(mount.file(f"{image}@s").stat().st_mode) == 0o440
        script = f"printf nobody | dd of={mount.file(image)} conv=notrunc,fsync"
        done = as_nobody("sh", "-c", script)
        assert done.returncode == 0, done.stderr
        # The group reads, and does not write.
        group = ["setpriv", "--reuid=65533", "--regid=65534", "--clear-groups"]
        done = subprocess.run([*group, "sh", "-c", script], capture_output=True, text=True, cwd="/")
        assert "Permission denied" in done.stderr
        done = subprocess.run(
            [*group, "sh", "-c", f"head -c 6 {mount.file(image)}"],
            capture_output=True,
            text=True,
            cwd="/",
        )
        assert done.stdout == "nobody"
        # Everybody else does neither.
        stranger = ["setpriv", "--reuid=65533", "--regid=65533", "--clear-groups"]
        done = subprocess.run(
            [*stranger, "cat", str(mount.file(image))], capture_output=True, text=True, cwd="/"
        )
        assert "Permission denied" in done.stderr
        assert mount.alive
    assert export_image(ceph, f"{pool}/{image}")[:6] == b"nobody"


@pytest.mark.usefixtures("native")
def test_log_that_stands_still(pool: str, image: str, mounting: Mounting, tmp_path: Path) -> None:
    """As a disk that hangs, or a syslog daemon that is stopped, does: the mount goes on."""
    log = tmp_path / "log"
    os.mkfifo(log)
    reader = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
    try:
        fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
        with mounting(pool, "-d", "--log-file", str(log)) as mount:
            for number in range(500):
                assert refusal(mount.file(f"nothing-{number}").stat) == "ENOENT"
            # More was logged than the pipe holds.
            assert len(os.read(reader, 1)) == 1
            with opened(mount.file(image), os.O_RDWR) as file:
                assert ask(mount, "restart")["generation"] == 2
                assert os.pread(file, MIB, 0) == random_bytes(MIB)
            assert image in os.listdir(mount.path)
            mount.unmount()
            assert mount.wait() == 0
    finally:
        os.close(reader)


@pytest.mark.parametrize("data_path", ["native", "python"])
def test_failed_file_is_one_line_in_the_log(
    ceph: Ceph, pool: str, image: str, mounting: Mounting, data_path: str
) -> None:
    """However often it is asked for, and whatever for: the last line has the count."""
    ceph.rbd("snap", "create", "--no-progress", f"{pool}/{image}@s")
    with mounting(pool, "-o", f"direct_io,datapath={data_path}") as mount:
        mount.expect_log(r"WARNING .*read:")
        mount.expect_log(r"WARNING .*open files of .* are lost")
        mount.expect_log(r"WARNING .*(read|flush): .* \(\d+ times more\)")
        with contextlib.suppress(OSError), opened(mount.file(f"{image}@s"), os.O_RDONLY) as file:
            ceph.rbd("snap", "rm", "--no-progress", f"{pool}/{image}@s")
            eventually(lambda: refusal(lambda: os.pread(file, 1, 0)) == "ESTALE", what="the loss")
            for _ in range(200):
                assert refusal(lambda: os.pread(file, 1, 0)) == "ESTALE"
        mount.unmount()
        assert mount.wait() == 0
        told = [line for line in mount.log_text.splitlines() if re.search(r" (read|flush): ", line)]
        assert len(told) == 2, told
        assert (count := re.search(r"\((\d+) times more\)", told[1]))
        assert int(count[1]) >= 200
