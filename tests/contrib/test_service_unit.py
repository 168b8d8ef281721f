"""The unit of contrib/systemd: what systemd makes of it, and rbdfs with no more rights."""

from __future__ import annotations

import configparser
import json
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.conditions import eventually
from tests.support.images import MIB, export_image, import_image, random_bytes
from tests.support.mounts import RBDFS, TIMEOUT_S, processes_naming, wait_for_end
from tests.support.namespaces import Namespace, namespace
from tests.support.notifications import NotifySocket

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.ceph import Ceph

SYSTEMD = Path(__file__).parents[2] / "contrib" / "systemd"
UNIT = SYSTEMD / "rbdfs@.service"
# fusermount3 asks for the name of its user, so it has to have one.
USER = pwd.getpwnam("nobody")


def service() -> configparser.SectionProxy:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT)
    return parser["Service"]


def need(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"needs {program} (package systemd)")


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    need("systemd-analyze")
    copy = tmp_path / "rbdfs@srv-rbd.service"
    copy.write_text(UNIT.read_text().replace("/usr/local/bin/rbdfs", str(RBDFS)))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True, timeout=60
    )
    # Of other units of the machine it may have something to say.
    assert [line for line in done.stderr.splitlines() if "rbdfs" in line] == []


def test_systemd_makes_the_user() -> None:
    need("systemd-sysusers")
    done = subprocess.run(
        ["systemd-sysusers", "--dry-run", SYSTEMD / "rbdfs.sysusers"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "Creating user 'rbdfs'" in done.stderr or pwd.getpwnam("rbdfs")


def test_unit_keeps_what_mounting_needs() -> None:
    """Each of these would make the unit serve a mount that nobody sees, or none at all."""
    keys = set(service())
    assert not keys & {"NoNewPrivileges", "SystemCallFilter", "RestrictAddressFamilies"}
    assert not keys & {"ProtectSystem", "ProtectHome", "PrivateTmp", "PrivateDevices"}
    assert not keys & {"DynamicUser", "ReadWritePaths", "ReadOnlyPaths", "TemporaryFileSystem"}
    # The keeper's and the server's own patience, in seconds, is shorter than the unit's.
    assert int(service()["TimeoutStopSec"]) > 35
    assert int(service()["TimeoutStartSec"]) > 30
    assert service()["KillMode"] == "mixed"


@dataclass(frozen=True)
class Sandbox(Namespace):
    """A user with the rights of the unit, where /dev/fuse is everybody's.

    That is how udev makes it; a test machine may have it for root alone.
    """

    directory: Path

    @property
    def settings(self) -> list[str | Path]:
        return ["-c", self.directory / "ceph.conf", "--id", "rw", "-k", self.directory / "keyring"]

    @property
    def prefix(self) -> list[str]:
        capabilities = service()["CapabilityBoundingSet"].lower().replace("cap_", "+").split()
        return [
            *super().prefix,
            *("setpriv", f"--reuid={USER.pw_uid}", f"--regid={USER.pw_gid}", "--clear-groups"),
            *("--inh-caps=-all", "--bounding-set=" + ",".join(["-all", *capabilities])),
        ]


@pytest.fixture
def sandbox(ceph: Ceph) -> Iterator[Sandbox]:
    if os.geteuid() != 0:
        pytest.skip("needs root: it becomes another user")
    if not os.path.exists("/dev/fuse"):
        pytest.skip("needs /dev/fuse (modprobe fuse)")
    # Not below pytest's directory, which is root's alone; this one is the user's alone.
    with tempfile.TemporaryDirectory(prefix="rbdfs-unit-") as scratch:
        directory = Path(scratch)
        (directory / "mnt").mkdir(mode=0o700)
        (directory / "disk").touch()
        (directory / "ceph.conf").write_text(ceph.conf.read_text())
        (directory / "keyring").write_text(ceph.keyring("rw").read_text())
        (directory / "keyring").chmod(0o600)
        (directory / "data").write_bytes(random_bytes(MIB, seed=7))
        for path in (directory, *directory.iterdir()):
            os.chown(path, USER.pw_uid, USER.pw_gid)
        devices = directory / "dev"
        devices.mkdir()
        number = os.stat("/dev/fuse").st_rdev
        setup = (
            # Where devices are devices: /tmp may be mounted without.
            f"mount -t tmpfs none {devices}",
            f"mknod -m 666 {devices}/fuse c {os.major(number)} {os.minor(number)}",
            f"mount --bind {devices}/fuse /dev/fuse",
        )
        with namespace(" && ".join(setup)) as here:
            yield Sandbox(here.holder, directory)


def capabilities(pid: int) -> dict[str, int]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {
        line.split(":")[0]: int(line.split()[1], 16)
        for line in lines
        if line.startswith(("CapPrm", "CapEff", "CapAmb", "CapInh"))
    }


def server_of(keeper: int) -> int | None:
    children = Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()
    return int(children[0]) if children else None


@pytest.mark.skipif(shutil.which("fusermount3") is None, reason="needs fusermount3")
def test_unprivileged_user(ceph: Ceph, pool: str, image_name: str, sandbox: Sandbox) -> None:
    """Mounting, I/O, a server that is killed, a restart and the end, as the unit has them."""
    import_image(ceph, f"{pool}/{image_name}", random_bytes(MIB))
    directory = sandbox.directory
    mountpoint, log = directory / "mnt", directory / "log"
    command = [RBDFS, "-f", *sandbox.settings, "--log-file", log, "--", pool, mountpoint]
    with NotifySocket() as notify:
        keeper = subprocess.Popen(
            [*sandbox.prefix, *map(str, command)],
            env=os.environ | {"NOTIFY_SOCKET": notify.address},
            cwd="/",
        )
        try:
            assert notify.receive(keeper.pid) == {"READY": "1", "MAINPID": str(keeper.pid)}
            assert sandbox.mounted(mountpoint)
            work(sandbox, mountpoint / image_name, keeper.pid)
            assert export_image(ceph, f"{pool}/{image_name}") == random_bytes(MIB, seed=7)
            keeper.send_signal(signal.SIGTERM)
            assert keeper.wait(TIMEOUT_S) == 0
            assert not sandbox.mounted(mountpoint)
            assert os.stat(log).st_uid == USER.pw_uid
            assert os.stat(log).st_mode & 0o137 == 0
        finally:
            server = server_of(keeper.pid) if keeper.poll() is None else None
            keeper.kill()
            keeper.wait(TIMEOUT_S)
            if server is not None:
                wait_for_end(server)


def work(sandbox: Sandbox, file: Path, keeper: int) -> None:
    """What an operator and a VM would do."""
    mountpoint = file.parent
    data = sandbox.directory / "data"
    # Nobody but the user who mounted, not even root.
    with pytest.raises(PermissionError):
        os.listdir(sandbox.path(mountpoint))
    write = ["dd", f"if={data}", f"of={file}", "bs=64k", "oflag=direct", "conv=notrunc,fsync"]
    done = sandbox.run(*write)
    assert done.returncode == 0, done.stderr
    assert sandbox.run("cmp", data, file).returncode == 0
    server = server_of(keeper)
    assert server is not None
    for pid in (keeper, server):
        assert set(capabilities(pid).values()) == {0}
        assert os.stat(f"/proc/{pid}").st_uid == USER.pw_uid
    os.kill(server, signal.SIGKILL)
    eventually(
        lambda: '"generation": 2' in sandbox.run(RBDFS, "status", mountpoint).stdout,
        what="the next server",
    )
    assert sandbox.run("cmp", data, file).returncode == 0
    assert sandbox.run(*write).returncode == 0
    # ExecReload=
    done = sandbox.run(RBDFS, "restart", mountpoint)
    assert done.returncode == 0, done.stderr
    assert '"generation": 3' in done.stdout
    assert sandbox.run("cmp", data, file).returncode == 0
    # Root may ask, though it may not look into the mount.
    done = Namespace(sandbox.holder).run(RBDFS, "status", mountpoint)
    assert '"generation": 3' in done.stdout, done.stderr


def test_unmounting_as_the_user(pool: str, sandbox: Sandbox) -> None:
    """With fusermount3, which has to be told what keeps it from that."""
    mountpoint = sandbox.directory / "mnt"
    done = sandbox.run(RBDFS, *sandbox.settings, pool, mountpoint)
    daemons = processes_naming(str(mountpoint))
    try:
        assert (done.returncode, done.stderr) == (0, "")
        root = Namespace(sandbox.holder)
        for who in (sandbox, root):
            (found,) = [
                each
                for each in json.loads(who.run(RBDFS, "mounts", "--json").stdout)
                if each["mountpoint"] == str(mountpoint)
            ]
            assert (found["source"], found["state"], found["open_files"]) == (pool, "serving", 0)
        script = f"cd {mountpoint} && echo && exec sleep 60"
        with subprocess.Popen(
            [*sandbox.prefix, "sh", "-c", script], stdout=subprocess.PIPE, cwd="/"
        ) as inside:
            assert inside.stdout is not None
            assert inside.stdout.readline() == b"\n"
            done = sandbox.run(RBDFS, "umount", mountpoint)
            inside.kill()
        assert done.returncode == 1
        assert f"{inside.pid} (sleep: working directory)" in done.stderr
        done = sandbox.run(RBDFS, "umount", mountpoint)
        assert (done.returncode, done.stderr) == (0, "")
        assert not sandbox.mounted(mountpoint)
        for pid in daemons:
            wait_for_end(pid, 0)
    finally:
        Namespace(sandbox.holder).run("umount", "-l", mountpoint)
        for pid in daemons:
            wait_for_end(pid)


@pytest.mark.parametrize("name", ["a,allow_other,dev", "back\\slash,suid", "with space"])
def test_names_that_look_like_options_of_fusermount(
    ceph: Ceph, pool: str, name: str, sandbox: Sandbox
) -> None:
    """The source is the only text of a user's in what fusermount3 is told."""
    import_image(ceph, f"{pool}/{name}", random_bytes(MIB))
    directory = sandbox.directory
    # QEMU's grammar has the backslash as its escape.
    source = f"rbd:{pool}/{name}".replace("\\", "\\\\")
    disk = directory / "disk"
    done = sandbox.run(RBDFS, *sandbox.settings, source, disk)
    daemons = processes_naming(str(disk))
    try:
        assert (done.returncode, done.stderr) == (0, "")
        mounts = Path(f"/proc/{sandbox.holder}/mountinfo").read_text()
        (line,) = [line for line in mounts.splitlines() if f" {disk} " in line]
        before, _, after = line.partition(" - ")
        assert before.split(" ")[5].startswith("rw,nosuid,nodev")
        assert "allow_other" not in after.rpartition(" ")[2]
        assert sandbox.run("cmp", directory / "data", disk).returncode == 1
        with pytest.raises(PermissionError):
            sandbox.path(disk).read_bytes()
    finally:
        sandbox.run("fusermount3", "-uz", disk)
        for pid in daemons:
            wait_for_end(pid)
