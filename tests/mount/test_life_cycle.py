"""How a mount ends: by umount, by a signal, by a crash; and what is left of it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.conditions import eventually, in_read
from tests.support.images import MIB, export_image, import_image, random_bytes
from tests.support.mounts import TIMEOUT_S, mounted, opened
from tests.support.refusals import refusal
from tests.support.servers import standing_still

if TYPE_CHECKING:
    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount, Mounting

SIGNALS = [signal.SIGTERM, signal.SIGINT]


@pytest.fixture
def image(ceph: Ceph, pool: str, image_name: str) -> str:
    import_image(ceph, f"{pool}/{image_name}", random_bytes(MIB))
    return image_name


def assert_ended(mount: Mount) -> None:
    """With 0, and as if there had been no mount."""
    assert mount.wait() == 0, mount.log_text
    assert not mounted(mount.path)
    assert os.listdir(mount.path) == []


def write(mount: Mount, image: str) -> None:
    with opened(mount.file(image), os.O_WRONLY) as file:
        os.pwrite(file, b"written", 0)


@pytest.mark.parametrize("command", [["umount"], ["fusermount3", "-u"]], ids=" ".join)
def test_unmounting_ends_the_process(
    ceph: Ceph, pool: str, image: str, mounting: Mounting, command: list[str]
) -> None:
    with mounting(pool) as mount:
        write(mount, image)
        subprocess.run([*command, mount.path], check=True, timeout=TIMEOUT_S)
        assert_ended(mount)
        assert ceph.watchers(f"{pool}/{image}") == []
        assert ceph.lock_owners(f"{pool}/{image}") == []
    assert export_image(ceph, f"{pool}/{image}")[:7] == b"written"


def test_busy_mount_is_not_unmounted(ceph: Ceph, pool: str, image: str, mounting: Mounting) -> None:
    with mounting(pool) as mount:
        with opened(mount.file(image), os.O_RDONLY) as file:
            done = subprocess.run(["umount", mount.path], capture_output=True, text=True)
            assert done.returncode != 0
            assert "busy" in done.stderr
            assert mount.alive
            assert os.pread(file, MIB, 0) == random_bytes(MIB)
        mount.unmount()
        assert_ended(mount)


def test_lazy_unmount_ends_the_process_with_the_last_close(
    ceph: Ceph, pool: str, image: str, mounting: Mounting
) -> None:
    with mounting(pool) as mount:
        with opened(mount.file(image), os.O_RDWR) as file:
            subprocess.run(["umount", "-l", mount.path], check=True)
            assert not mounted(mount.path)
            os.pwrite(file, b"late", 0)
            os.fsync(file)
            assert os.pread(file, 4, 0) == b"late"
            assert mount.process.poll() is None
        assert_ended(mount)
        assert ceph.watchers(f"{pool}/{image}") == []
    assert export_image(ceph, f"{pool}/{image}")[:4] == b"late"


@pytest.mark.parametrize("signum", SIGNALS)
def test_signal_ends_an_idle_mount(
    ceph: Ceph, pool: str, image: str, mounting: Mounting, signum: signal.Signals
) -> None:
    with mounting(pool) as mount:
        write(mount, image)
        mount.signal(signum)
        assert_ended(mount)
        assert ceph.watchers(f"{pool}/{image}") == []
        assert ceph.lock_owners(f"{pool}/{image}") == []
    assert export_image(ceph, f"{pool}/{image}")[:7] == b"written"


@pytest.mark.parametrize("signum", SIGNALS)
def test_signal_ends_a_mount_with_open_files(
    ceph: Ceph, pool: str, image: str, mounting: Mounting, signum: signal.Signals
) -> None:
    with mounting(pool) as mount:
        file = os.open(mount.file(image), os.O_RDWR)
        os.pwrite(file, b"open", 0)
        mount.signal(signum)
        assert_ended(mount)
        assert ceph.watchers(f"{pool}/{image}") == []
        assert ceph.lock_owners(f"{pool}/{image}") == []
        for use in (lambda: os.pread(file, 1, MIB // 2), lambda: os.pwrite(file, b"x", 0)):
            with pytest.raises(OSError) as failure:  # noqa: PT011 (the errno matters)
                use()
            assert failure.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)
        with pytest.raises(OSError, match="not connected"):
            os.close(file)
    assert export_image(ceph, f"{pool}/{image}")[:4] == b"open"


def test_working_directory_inside_does_not_keep_a_mount(mounting: Mounting, pool: str) -> None:
    with (
        mounting(pool) as mount,
        subprocess.Popen(["cat"], stdin=subprocess.PIPE, cwd=mount.path) as user,
    ):
        mount.signal(signal.SIGTERM)
        assert_ended(mount)
        user.communicate(b"", TIMEOUT_S)


@pytest.mark.parametrize("second", SIGNALS)
def test_second_signal_ends_at_once(
    ceph: Ceph, pool: str, image: str, mounting: Mounting, second: signal.Signals
) -> None:
    """What the cluster does not answer cannot be finished: then the user decides."""
    with mounting(pool, exit_code=1) as mount:
        mount.allow_log("ERROR .*second signal")
        file = os.open(mount.file(image), os.O_WRONLY | os.O_DIRECT)
        other = os.open(mount.file(image), os.O_RDONLY | os.O_DIRECT)
        with (
            ceph.stalled("osd.0"),
            subprocess.Popen(
                ["dd", "of=/dev/null", "bs=64k", "iflag=direct"],
                stdin=other,
                stderr=subprocess.DEVNULL,
            ) as reader,
        ):
            eventually(lambda: in_read(reader.pid), what="the read")
            mount.signal(signal.SIGTERM)
            eventually(lambda: "SIGTERM" in mount.log_text, what="the first signal's log")
            with pytest.raises(subprocess.TimeoutExpired):
                mount.wait(0.5)
            mount.signal(second)
            assert mount.wait(3.0) == 1
            assert reader.wait(TIMEOUT_S) != 0
        for descriptor in (file, other):
            with pytest.raises(OSError, match="not connected"):
                os.close(descriptor)


def test_crash_leaves_a_dead_mount_that_a_new_start_replaces(
    ceph: Ceph, pool: str, image: str, mounting: Mounting
) -> None:
    """An empty directory in its place would be mirrored as a deletion of everything."""
    with mounting(pool, exit_code=-signal.SIGKILL) as mount:
        mount.allow_log("the keeper is gone")
        file = os.open(mount.file(image), os.O_RDWR)
        os.pwrite(file, b"synced", 0)
        os.fsync(file)
        mount.signal(signal.SIGKILL)
        mount.wait()
        # The server notices a little later.
        eventually(lambda: refusal(lambda: os.statvfs(mount.path)) == "ENOTCONN", what="its end")
        for use in (
            lambda: os.pread(file, 1, MIB // 2),
            lambda: os.listdir(mount.path),
            lambda: os.stat(mount.file(image)),
            lambda: os.statvfs(mount.path),
            lambda: os.close(file),
        ):
            with pytest.raises(OSError) as failure:  # noqa: PT011 (the errno matters)
                use()
            assert failure.value.errno == errno.ENOTCONN
        assert mounted(mount.path)
        with mounting(pool, mountpoint=mount.path) as successor:
            successor.allow_log("WARNING .*a mount died here as a whole")
            assert mount.file(image).read_bytes()[:6] == b"synced"
            assert successor.alive
    assert not mounted(mount.path)


def test_signal_while_an_unmounted_mount_closes_its_files(
    ceph: Ceph, pool: str, image: str, mounting: Mounting
) -> None:
    """The cluster is away: it is told to end, and then to leave; a new mount need not wait."""
    with mounting(pool, exit_code=1) as mount:
        mount.allow_log("ERROR .*second signal", "ERROR .*the server ended")
        file = os.open(mount.file(image), os.O_RDWR)
        with standing_still(ceph, 0):
            os.close(file)
            mount.unmount()
            eventually(lambda: "unmounted" in mount.log_text, what="the end of the mount")
            with pytest.raises(subprocess.TimeoutExpired):
                mount.wait(0.5)
            mount.signal_all(signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                mount.wait(0.5)
            mount.signal(signal.SIGTERM)
            assert mount.wait(5.0) == 1
        assert "Traceback" not in mount.log_text
        assert not mounted(mount.path)
