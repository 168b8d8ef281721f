"""Without -f: rbdfs returns when the mount is usable, and not before."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.conditions import eventually
from tests.support.mounts import (
    TIMEOUT_S,
    force_unmount,
    mounted,
    processes_naming,
    wait_for_end,
)
from tests.support.notifications import NotifySocket

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mounting


@pytest.fixture
def mountpoint(mounting: Mounting) -> Iterator[Path]:
    """A mount point that loses its mount, and the processes that name it, at the end."""
    path = mounting.mountpoint()
    try:
        yield path
    finally:
        for pid in processes_naming(str(path)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            wait_for_end(pid)
        force_unmount(path)


def start(command: list[str], notify: NotifySocket | None = None) -> subprocess.Popen[str]:
    env = os.environ | ({"NOTIFY_SOCKET": notify.address} if notify else {})
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit code, and everything printed until nobody has stdout and stderr open any more."""
    with process:
        stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    return process.returncode, stdout + stderr


@pytest.mark.parametrize("kind", ["abstract", "path"])
def test_returns_when_the_mount_is_usable(
    ceph: Ceph,
    pool: str,
    image_name: str,
    mounting: Mounting,
    mountpoint: Path,
    tmp_path: Path,
    kind: str,
) -> None:
    ceph.rbd("create", "--size=1M", f"{pool}/{image_name}")
    address = None if kind == "abstract" else os.path.relpath(tmp_path / "notify")
    with NotifySocket(address) as notify:
        if address is not None:
            notify.address = str(tmp_path / "notify")
        assert ended(start(mounting.command(pool, mountpoint), notify)) == (0, "")
        assert mounted(mountpoint)
        assert image_name in os.listdir(mountpoint)
        message = notify.receive()
    assert message is not None
    assert message.pop("READY") == "1"
    daemon = int(message.pop("MAINPID"))
    assert processes_naming(str(mountpoint)) == [daemon]
    assert os.readlink(f"/proc/{daemon}/cwd") == "/"
    assert os.getsid(daemon) == daemon
    assert [os.readlink(f"/proc/{daemon}/fd/{number}") for number in range(3)] == ["/dev/null"] * 3
    subprocess.run(["umount", mountpoint], check=True)
    wait_for_end(daemon)


def test_does_not_return_before(
    ceph: Ceph, pool: str, image_name: str, mounting: Mounting, mountpoint: Path
) -> None:
    ceph.rbd("create", "--size=1M", f"{pool}/{image_name}")
    with ceph.stalled("osd.0"):
        process = start(mounting.command(pool, mountpoint))
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.5)
        assert not mounted(mountpoint)
    assert ended(process) == (0, "")
    assert mounted(mountpoint)
    assert image_name in os.listdir(mountpoint)


def test_options_and_surroundings_that_change_nothing(
    pool: str, mounting: Mounting, mountpoint: Path
) -> None:
    """A part of a second for Ceph, which knows whole ones, and a service manager that is gone."""
    command = mounting.command(pool, mountpoint, "-o", "timeout=2.5")
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env=os.environ | {"NOTIFY_SOCKET": "/nonexistent/notify"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert mounted(mountpoint)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_daemon_that_dies_at_the_start(
    ceph: Ceph, pool: str, mounting: Mounting, mountpoint: Path, signum: signal.Signals
) -> None:
    with ceph.stalled("osd.0"):
        process = start(mounting.command(pool, mountpoint))
        daemon = daemon_of(process, mountpoint)
        os.kill(daemon, signum)
        code, output = ended(process)
    assert code == 1
    assert output.startswith("rbdfs: ")
    assert output.count("\n") == 1
    assert not mounted(mountpoint)


def daemon_of(process: subprocess.Popen[str], mountpoint: Path) -> int:
    def daemon() -> int | None:
        others = [pid for pid in processes_naming(str(mountpoint)) if pid != process.pid]
        return others[0] if others else None

    found = eventually(daemon, what="the daemon")
    assert found is not None
    return found


def test_log_file(
    ceph: Ceph, pool: str, mounting: Mounting, mountpoint: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    command = mounting.command(pool, mountpoint, "-d", "--log-file", str(log))
    assert ended(start(command)) == (0, "")
    (daemon,) = eventually(
        lambda: len(found := processes_naming(str(mountpoint))) == 1 and found,
        what="one process of the mount",
    ) or [0]
    assert stat.S_IMODE(log.stat().st_mode) == 0o640
    assert f"rbdfs[{daemon}] INFO" in log.read_text()
    # As log rotation does it.
    log.rename(tmp_path / "log.1")
    os.kill(daemon, signal.SIGTERM)
    wait_for_end(daemon)
    assert "SIGTERM" in log.read_text()
