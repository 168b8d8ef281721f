"""A mount is its device number, never a path: what it is made on, and what its end takes away."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from rbdfs.config.runtime_directory import ROOT_DIRECTORY
from tests.support import old_kernel
from tests.support.conditions import eventually
from tests.support.images import MIB, import_image, random_bytes
from tests.support.mounts import (
    RBDFS,
    TIMEOUT_S,
    force_unmount,
    mounted,
    opened,
    opened_and_lost,
    processes_naming,
    wait_for_end,
)
from tests.support.namespaces import namespace
from tests.support.refusals import refusal
from tests.support.servers import server_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mounting
    from tests.support.namespaces import Namespace


THIS_KERNEL = [str(RBDFS)]
OLD_KERNEL = [sys.executable, old_kernel.__file__]


@pytest.fixture
def image(ceph: Ceph, pool: str, image_name: str) -> str:
    import_image(ceph, f"{pool}/{image_name}", random_bytes(MIB))
    return image_name


@pytest.fixture
def mountpoint(mounting: Mounting) -> Iterator[Path]:
    """A mount point of daemons: mounts and processes that are left at the end are taken away."""
    path = mounting.mountpoint()
    try:
        yield path
    finally:
        end(path)


def end(path: Path) -> None:
    for pid in processes_naming(str(path)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        wait_for_end(pid)
    force_unmount(path)


def rbdfs(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        **options,
    )


def succeed(command: list[str], **options: object) -> None:
    done = rbdfs(command, **options)
    assert (done.returncode, done.stderr) == (0, "")


def tmpfs(path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "none", path], check=True)
    (path / "theirs").touch()


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("data_path", ["native", "python"])
def test_what_is_mounted_in_its_place_stays(
    pool: str, image: str, mounting: Mounting, data_path: str
) -> None:
    """It has the same device number, most likely: the kernel gives the lowest that is free."""
    with mounting(pool, "-o", f"datapath={data_path}") as mount:
        assert mount.file(image).read_bytes() == random_bytes(MIB)
        mount.unmount()
        tmpfs(mount.path)
        assert mount.wait() == 0
        assert os.listdir(mount.path) == ["theirs"]
        subprocess.run(["umount", mount.path], check=True)


@pytest.mark.parametrize("data_path", ["native", "python"])
def test_what_is_mounted_after_a_lazy_unmount_stays(
    pool: str, image: str, mounting: Mounting, data_path: str
) -> None:
    with mounting(pool, "-o", f"datapath={data_path}") as mount:
        file = os.open(mount.file(image), os.O_RDWR)
        subprocess.run(["umount", "-l", mount.path], check=True)
        tmpfs(mount.path)
        assert os.pread(file, MIB, 0) == random_bytes(MIB)
        mount.signal(signal.SIGTERM)
        assert mount.wait() == 0
        with pytest.raises(OSError, match="not connected"):
            os.close(file)
        assert os.listdir(mount.path) == ["theirs"]
        subprocess.run(["umount", mount.path], check=True)


@pytest.mark.parametrize("data_path", ["native", "python"])
def test_what_is_mounted_over_it_stays(
    pool: str, image: str, mounting: Mounting, data_path: str
) -> None:
    """What is below cannot be taken away then, and whoever ended it hears of that."""
    native = data_path == "native"
    with mounting(pool, "-o", f"datapath={data_path}", exit_code=1) as mount:
        mount.expect_log("ERROR .* stays mounted, and dead: .*over it")
        tmpfs(mount.path)
        mount.signal(signal.SIGTERM)
        assert mount.wait() == 1
        assert os.listdir(mount.path) == ["theirs"]
        subprocess.run(["umount", mount.path], check=True)
        assert refusal(lambda: os.listdir(mount.path)) == "ENOTCONN"
        assert native or mounted(mount.path)


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("program", [THIS_KERNEL, OLD_KERNEL], ids=["numbered", "before 6.8"])
def test_another_mount_of_rbdfs_in_its_place_stays(
    pool: str, image: str, mounting: Mounting, mountpoint: Path, program: list[str]
) -> None:
    """The one before is ending still, and held nothing back: umount, then mount, at once.

    The other has the same device number, if nobody else was quicker.
    """
    with mounting(pool, mountpoint=mountpoint, program=program) as mount:
        server = server_of(mount)
        assert server is not None
        with stopped(server):
            # Plain umount(8) would look at the mount point first, and wait for the server.
            subprocess.run(["umount", "-c", mountpoint], check=True, timeout=TIMEOUT_S)
            succeed([*program, *mounting.command(pool, mountpoint)[1:]])
            assert image in os.listdir(mountpoint)
        assert mount.wait() == 0
        assert image in os.listdir(mountpoint)
        subprocess.run(["umount", mountpoint], check=True)


@pytest.mark.parametrize("data_path", ["native", "python"])
def test_a_mount_that_is_busy_is_detached_on_an_old_kernel_too(
    pool: str, image: str, mounting: Mounting, data_path: str
) -> None:
    with mounting(pool, "-o", f"datapath={data_path}", program=OLD_KERNEL) as mount:
        with opened_and_lost(mount.file(image), os.O_RDONLY):
            mount.signal(signal.SIGTERM)
            assert mount.wait() == 0
        assert not mounted(mount.path)


def test_mounting_while_old_files_are_open(
    pool: str, image: str, mounting: Mounting, mountpoint: Path
) -> None:
    with mounting(pool, mountpoint=mountpoint) as old:
        with opened(mountpoint / image, os.O_RDONLY) as file:
            subprocess.run(["umount", "-l", mountpoint], check=True)
            succeed(mounting.command(pool, mountpoint))
            assert os.pread(file, MIB, 0) == random_bytes(MIB)
            assert (mountpoint / image).read_bytes() == random_bytes(MIB)
        assert old.wait() == 0
        # The old one took nothing along that is not its own.
        assert (mountpoint / image).read_bytes() == random_bytes(MIB)
        subprocess.run(["umount", mountpoint], check=True)


def test_mounting_while_the_old_mount_lives_in_another_namespace(
    pool: str, image: str, mounting: Mounting, mountpoint: Path
) -> None:
    """As in a container that was started meanwhile."""
    with mounting(pool, mountpoint=mountpoint) as old:
        with namespace("true") as container:
            old.unmount()
            succeed(mounting.command(pool, mountpoint))
            assert image in container.run("ls", mountpoint).stdout.split("\n")
            assert (mountpoint / image).read_bytes() == random_bytes(MIB)
        assert old.wait() == 0
        assert mounted(mountpoint)
        subprocess.run(["umount", mountpoint], check=True)


@pytest.mark.parametrize("data_path", ["native", "python"])
def test_a_dead_mount_stays_until_the_cluster_has_answered(
    ceph: Ceph, pool: str, image: str, mounting: Mounting, mountpoint: Path, data_path: str
) -> None:
    """What it would uncover is an empty directory, which a mirror takes for a deletion of all."""
    options = ["-o", f"datapath={data_path}", "--connect-timeout", "1"]
    succeed(mounting.command(pool, mountpoint, *options))
    for pid in processes_naming(str(mountpoint)):
        os.kill(pid, signal.SIGKILL)
        wait_for_end(pid)
    eventually(lambda: refusal(lambda: os.listdir(mountpoint)) == "ENOTCONN", what="its death")
    with ceph.stalled("mon.a"):
        done = rbdfs(mounting.command(pool, mountpoint, *options))
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert refusal(lambda: os.listdir(mountpoint)) == "ENOTCONN"
    succeed(mounting.command(pool, mountpoint, *options))
    assert (mountpoint / image).read_bytes() == random_bytes(MIB)
    subprocess.run(["umount", mountpoint], check=True)
    assert not mounted(mountpoint), "one mount, not one over the dead one"


@pytest.mark.parametrize("data_path", ["native", "python"])
def test_a_symbolic_link_is_followed_once(
    pool: str, image: str, mounting: Mounting, tmp_path: Path, data_path: str
) -> None:
    """From then on it is the directory that counts, by any name, and whatever the link says."""
    real = mounting.mountpoint("real")
    link = tmp_path / "link"
    link.symlink_to(real)
    with mounting(pool, "-o", f"datapath={data_path}", mountpoint=link) as mount:
        assert mounted(real)
        if data_path == "native":
            for path in (real, link, real / "..", link / "../real"):
                done = rbdfs([str(RBDFS), "status", str(path)])
                if "real" in path.parts[-1:]:
                    assert json.loads(done.stdout)["mountpoint"] == str(real), done.stderr
        link.unlink()
        link.symlink_to("/")
        mount.signal(signal.SIGTERM)
        assert mount.wait() == 0
        assert not mounted(real)


@pytest.mark.usefixtures("native")
def test_a_mount_point_that_is_swapped_meanwhile(
    ceph: Ceph, pool: str, mounting: Mounting, tmp_path: Path
) -> None:
    """By the owner of the directory that it lies in: root mounts nowhere else for that."""
    theirs, elsewhere = tmp_path / "theirs", tmp_path / "elsewhere"
    (theirs / "mnt").mkdir(parents=True)
    (elsewhere / "mnt").mkdir(parents=True)
    for swapped, instead in ((theirs / "mnt", elsewhere / "mnt"), (theirs, elsewhere)):
        with ceph.stalled("mon.a"):
            start = subprocess.Popen(
                mounting.command(pool, theirs / "mnt", "-f"), stderr=subprocess.PIPE, text=True
            )
            eventually(lambda: len(processes_naming(str(theirs))) == 1, what="rbdfs")
            eventually(lambda: server_started(start.pid), what="the server")  # noqa: B023
            swapped.rename(tmp_path / "away")
            swapped.symlink_to(instead)
        _, stderr = start.communicate(timeout=TIMEOUT_S)
        assert start.returncode == 1
        assert "mount point" in stderr
        assert not mounted(instead)
        assert not mounted(elsewhere / "mnt")
        swapped.unlink()
        (tmp_path / "away").rename(swapped)


def server_started(keeper: int) -> bool:
    with open(f"/proc/{keeper}/task/{keeper}/children", encoding="ascii") as children:
        return bool(children.read().split())


_AUTOFS_READY = 0x9360  # AUTOFS_IOC_READY
_AUTOFS_CATATONIC = 0x9362


@contextlib.contextmanager
def automount(path: Path) -> Iterator[tuple[int, int]]:
    """A direct mount of autofs, as systemd makes one of x-systemd.automount.

    Yields the pipe by which it asks for the mount, and the descriptor by which it is answered.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    ours, kernels = os.pipe()
    # Who is of this group sees the bare directory; everybody else waits for what is asked for.
    data = f"fd={kernels},pgrp={os.getpgrp()},minproto=5,maxproto=5,direct".encode()
    if libc.mount(b"auto", os.fsencode(path), b"autofs", 0, data) != 0:
        pytest.skip(f"the kernel has no autofs: {os.strerror(ctypes.get_errno())}")
    try:
        root = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield ours, root
        finally:
            fcntl.ioctl(root, _AUTOFS_CATATONIC, 0)
            os.close(root)
    finally:
        os.close(ours)
        os.close(kernels)
        force_unmount(path)


def test_automount(pool: str, image: str, mounting: Mounting, mountpoint: Path) -> None:
    """autofs on the mount point is what asks for this mount: neither opened, nor in the way."""
    with automount(mountpoint) as (pipe, root):
        visitor = subprocess.Popen(
            ["ls", mountpoint], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        # struct autofs_v5_packet: version and type, the token that the answer has to repeat.
        _, _, token = struct.unpack_from("=iiI", os.read(pipe, 512))
        # In this process group, as all is that systemd runs for a mount unit.
        log = mounting.directory / "log"
        command = mounting.command(pool, mountpoint, "--log-file", str(log))
        succeed(command)
        fcntl.ioctl(root, _AUTOFS_READY, token)
        assert image in visitor.communicate(timeout=TIMEOUT_S)[0].split("\n")
        (daemon, *_) = processes_naming(str(mountpoint))
        os.kill(daemon, signal.SIGTERM)
        wait_for_end(daemon)
        with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
            types = [
                line.partition(" - ")[2].split()[0] for line in mounts if str(mountpoint) in line
            ]
        assert types == ["autofs"], "it stays, for the next who comes by"


@pytest.mark.usefixtures("native")
def test_a_mount_that_does_not_answer_is_in_use(
    pool: str, image: str, mounting: Mounting, mountpoint: Path
) -> None:
    """Whoever asks it himself would wait with it."""
    with mounting(pool, mountpoint=mountpoint) as mount:
        server = server_of(mount)
        assert server is not None
        with stopped(server):
            begun = time.monotonic()
            done = rbdfs(mounting.command(pool, mountpoint))
            assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
            assert "in use" in done.stderr
            assert time.monotonic() - begun < 10
        assert mount.alive


def test_a_number_of_a_dead_keeper_is_nobodys(
    ceph: Ceph, pool: str, here: Namespace, mountpoint_here: Path
) -> None:
    """A mount without a keeper that gets it is not told to have lost its own."""
    directory = here.path(ROOT_DIRECTORY)
    here.run("mkdir", "-p", ROOT_DIRECTORY)
    here.run("mount", "-t", "tmpfs", "-o", "mode=0711", "none", ROOT_DIRECTORY)
    dead = directory / "0-0.socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(dead))
    for minor in range(1, 4096):
        os.link(dead, directory / f"0-{minor}.socket")
    done = here.run(RBDFS, "-c", ceph.conf, "-o", "datapath=python", pool, mountpoint_here)
    assert (done.returncode, done.stderr) == (0, "")
    done = here.run(RBDFS, "status", mountpoint_here)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"rbdfs: {str(mountpoint_here)!a}: no keeper answers for it\n"
