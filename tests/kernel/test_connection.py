"""Mounting and unmounting, with nobody behind the connection."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbdfs.kernel import connection
from rbdfs.kernel.connection import MountOptions
from tests.support.namespaces import in_fstab

if TYPE_CHECKING:
    from collections.abc import Iterator

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mount(2) needs root")


def mount_line(mountpoint: Path) -> list[str]:
    """Source, type and options of a mount, unescaped; the last one at that place."""
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        left, _, right = line.partition(" - ")
        if left.split()[4] == in_fstab(mountpoint):
            fs_type, source, super_options = right.split()
            source = source.encode().decode("unicode_escape")
            return [source, fs_type, left.split()[5], super_options]
    return []


@contextmanager
def mounted(mountpoint: Path, options: MountOptions | None = None) -> Iterator[int]:
    fd = connection.open_kernel(str(mountpoint), options)
    try:
        yield fd
    finally:
        os.close(fd)
        connection.unmount(str(mountpoint), lazy=True)


def split_options(words: str) -> list[str]:
    """As fusermount3 splits them."""
    parts, escaped = [""], False
    for letter in words:
        if escaped:
            parts[-1] += letter
            escaped = False
        elif letter == "\\":
            escaped = True
        elif letter == ",":
            parts.append("")
        else:
            parts[-1] += letter
    return parts


@given(st.text())
def test_fsname_is_one_option(fsname: str) -> None:
    words = split_options(connection.fusermount_options(MountOptions(fsname=fsname)))
    assert words == ["rw", "nosuid", "nodev", f"fsname={fsname}", "subtype=rbdfs"]


def test_options() -> None:
    options = MountOptions(
        read_only=True, allow_other=True, default_permissions=True, max_read=131072
    )
    assert connection.kernel_options(options, fd=5, file_type=0o40000) == (
        f"fd=5,rootmode=40000,user_id={os.getuid()},group_id={os.getgid()},"
        "default_permissions,allow_other,max_read=131072"
    )
    assert connection.fusermount_options(options) == (
        "ro,nosuid,nodev,default_permissions,allow_other,max_read=131072,fsname=rbdfs,subtype=rbdfs"
    )


ODD_NAMES = ["rbd/a,allow_other", "a\\,b", "back\\", "new\nline", "a b\tc", "ünï", "#x"]


@needs_root
@pytest.mark.parametrize("fsname", ODD_NAMES)
def test_fsname_by_mount(tmp_path: Path, fsname: str) -> None:
    with mounted(tmp_path, MountOptions(fsname=fsname)):
        source, fs_type, flags, super_options = mount_line(tmp_path)
        assert source.encode("latin-1").decode() == fsname
        assert fs_type == "fuse.rbdfs"
        assert {"nosuid", "nodev"} < set(flags.split(","))
        assert "allow_other" not in super_options


@pytest.mark.parametrize("fsname", ["rbd/a,allow_other", "a\\,b", "a b\tc"])
def test_fsname_by_fusermount(tmp_path: Path, fsname: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with mounted(tmp_path, MountOptions(fsname=fsname)) as fd:
        source, fs_type, flags, super_options = mount_line(tmp_path)
        assert source == fsname
        assert fs_type == "fuse.rbdfs"
        assert {"nosuid", "nodev"} < set(flags.split(","))
        assert "allow_other" not in super_options
        assert not os.get_inheritable(fd)


FLAGS = ("dirsync", "noatime", "noexec", "sync")


@needs_root
def test_flags_by_mount_and_by_fusermount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for user in (0, 12345):
        monkeypatch.setattr(os, "geteuid", lambda user=user: user)
        with mounted(tmp_path, MountOptions(flags=(*FLAGS, "relatime"))):
            _, _, flags, super_options = mount_line(tmp_path)
            assert set(FLAGS) <= {*flags.split(","), *super_options.split(",")}


def test_flags_that_fusermount_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    for flag in connection.MS_FLAGS.keys() - {*FLAGS, "relatime"}:
        with pytest.raises(PermissionError, match=f"{flag} is root's to ask for"):
            connection.open_kernel(str(tmp_path), MountOptions(flags=(flag,)))
        assert mount_line(tmp_path) == []


@needs_root
def test_directory_file_and_read_only(tmp_path: Path) -> None:
    file = tmp_path / "file, with spaces"
    file.touch()
    with mounted(file, MountOptions(read_only=True)):
        assert "ro" in mount_line(file)[2].split(",")
    directory = tmp_path / "directory"
    directory.mkdir()
    with mounted(directory):
        assert "rw" in mount_line(directory)[2].split(",")


def test_wrong_mount_points(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        connection.open_kernel(str(tmp_path / "missing"))
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(NotADirectoryError):
        connection.open_kernel(str(fifo))


def test_refusal_of_fusermount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(OSError, match="fusermount3: ") as caught:
        connection.unmount(str(tmp_path))
    assert caught.value.errno in (errno.EINVAL, errno.EPERM)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="not installed"):
        connection.open_kernel(str(tmp_path))


@needs_root
def test_dead_mount(tmp_path: Path) -> None:
    fd = connection.open_kernel(str(tmp_path))
    os.close(fd)
    try:
        with pytest.raises(OSError, match="not connected") as caught:
            connection.open_kernel(str(tmp_path))
        assert caught.value.errno == errno.ENOTCONN
    finally:
        connection.unmount(str(tmp_path))
    with pytest.raises(OSError, match="Invalid argument"):
        connection.unmount(str(tmp_path))


@needs_root
def test_descriptor_is_not_inherited(tmp_path: Path) -> None:
    with mounted(tmp_path):
        listed = subprocess.run(
            ["find", "/proc/self/fd", "-printf", "%l\\n"],
            capture_output=True,
            text=True,
            check=True,
            close_fds=False,
        )
    assert "/dev/fuse" not in listed.stdout


def test_socket_pair_carries_its_largest_request() -> None:
    ours, theirs, max_request = connection.socket_pair()
    with ours, theirs:
        assert 131072 <= max_request <= connection.MAX_REQUEST
        assert max_request % 4096 == 0
        message = bytes(max_request + connection.MESSAGE_OVERHEAD)
        for sender, receiver in ((ours, theirs), (theirs, ours)):
            sender.setblocking(False)
            assert sender.send(message) == len(message)
            assert len(receiver.recv(4 << 20)) == len(message)


def test_socket_pair_of_a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the privilege, and with the kernel's default for net.core.wmem_max."""
    real = socket.socket.setsockopt

    def setsockopt(self: socket.socket, level: int, option: int, value: int) -> None:
        if option == connection.SO_SNDBUFFORCE:
            raise PermissionError
        real(self, level, option, min(value, 212992))

    monkeypatch.setattr(socket.socket, "setsockopt", setsockopt)
    ours, theirs, max_request = connection.socket_pair()
    with ours, theirs:
        assert max_request == 384 << 10
        ours.setblocking(False)
        assert ours.send(bytes(max_request + connection.MESSAGE_OVERHEAD))
