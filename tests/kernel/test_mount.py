"""Which mount is ours, also where the kernel (before Linux 6.8) numbers none for good."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from rbdfs.kernel import connection, mount, raw_requests
from rbdfs.kernel.mount import Mount, place
from tests.support.mounts import force_unmount, mounted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mount(2) needs root")


@pytest.fixture(params=["numbered", "before Linux 6.8"])
def path(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A mount point; what the kernel tells of mounts, and whether it has a control file system."""
    # A control file system that the host has mounted or not.
    monkeypatch.setattr(mount, "_CONNECTIONS", tmp_path / "connections")
    if request.param != "numbered":
        monkeypatch.setattr(mount, "_STATX_MNT_ID_UNIQUE", 0)
    path = tmp_path / "mnt"
    path.mkdir()
    try:
        yield path
    finally:
        force_unmount(path)


@pytest.fixture
def control(path: Path, tmp_path: Path) -> Iterator[Path]:
    """The control file system of FUSE."""
    control = tmp_path / "connections"
    control.mkdir()
    done = subprocess.run(["mount", "-t", "fusectl", "none", control], capture_output=True)
    if done.returncode:
        pytest.skip("the kernel has no fusectl")
    try:
        yield control
    finally:
        force_unmount(control)


@contextlib.contextmanager
def made(path: Path) -> Iterator[tuple[int, Mount]]:
    """A mount, and its connection."""
    fuse = connection.open_kernel(str(path))
    try:
        yield fuse, Mount.at(str(path))
    finally:
        os.close(fuse)


def is_numbered(path: Path) -> bool:
    return place(str(path)).unique_id != 0


def test_ours_is_taken_away(path: Path) -> None:
    for end in (Mount.unmount, Mount.detach):
        with made(path) as (fuse, ours):
            end(ours, fuse)
            assert not mounted(path)
            assert raw_requests.is_over(fuse)


def test_another_one_that_has_its_numbers_stays(path: Path) -> None:
    """The kernel gives the lowest that are free: what was mounted next has the same."""
    with made(path) as (old_fuse, old):
        connection.unmount(str(path))
        with made(path) as (fuse, ours):
            old = replace(ours, unique_id=old.unique_id, control=old.control)
            with pytest.raises(OSError, match="not mounted any more") as caught:
                old.unmount(old_fuse)
            assert caught.value.errno == errno.EINVAL
            assert old.where(old_fuse) is None
            old.detach(old_fuse)
            assert mounted(path)
            assert not raw_requests.is_over(fuse)
            if not is_numbered(path):
                # Nor is anything said of what covers it.
                subprocess.run(["mount", "-t", "tmpfs", "none", path], check=True)
                old.detach(old_fuse)


@pytest.mark.usefixtures("control")
def test_another_one_with_a_control_directory_of_its_own_stays(path: Path) -> None:
    test_another_one_that_has_its_numbers_stays(path)


def test_one_that_was_aborted_is_taken_away(path: Path, control: Path) -> None:
    """As the log tells to do where requests hang because the kernel sends none again."""
    with made(path) as (fuse, ours):
        minor = ours.device.partition(":")[2]
        (control / minor / "abort").write_text("1")
        assert raw_requests.is_over(fuse)
        ours.detach(fuse)
        assert not mounted(path)


def test_one_that_was_aborted_stays_where_nothing_tells_it_from_another(
    path: Path, control: Path
) -> None:
    with made(path) as (fuse, ours):
        numbered = is_numbered(path)
        (control / ours.device.partition(":")[2] / "abort").write_text("1")
        replace(ours, control=0).detach(fuse)
        assert mounted(path) != numbered


def test_a_copy_elsewhere_stays(path: Path, tmp_path: Path) -> None:
    """A mount made with --bind has the device number of ours, and is somebody else's."""
    copy = tmp_path / "copy"
    copy.mkdir()
    with made(path) as (fuse, ours):
        subprocess.run(["mount", "--bind", path, copy], check=True)
        try:
            ours.detach(fuse)
            assert not mounted(path)
            assert ours.where(fuse) is None
            ours.detach(fuse)
            assert mounted(copy)
        finally:
            force_unmount(copy)


def test_of_a_server_before_this_version(path: Path) -> None:
    """It told less of a mount."""
    with made(path) as (fuse, ours):
        told = {name: ours.record()[name] for name in ("path", "device", "unique_id")}
        Mount.from_record(told).detach(fuse)
        assert not mounted(path)
