"""Keys of clients that are given as arguments: nobody else gets to see them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rbdfs.config.secrets import redacted
from tests.support.conditions import eventually
from tests.support.images import import_image
from tests.support.mounts import (
    RBDFS,
    TIMEOUT_S,
    Mount,
    force_unmount,
    processes_naming,
    wait_for_end,
)
from tests.support.servers import ask, killed_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mounting

KEY = "AQDx8kRnAAAAABAAq1+/Zk2e5W6T8lGcW0j0Ug=="
SIGHT = "import sys; sys.stdout.write(open('/proc/self/cmdline').read())"
CONCEALED = f"from rbdfs.config.secrets import conceal_arguments as c; c(); {SIGHT}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"key={KEY}", "key=***"),
        (f"id=a,key={KEY},ro", "id=a,key=***,ro"),
        (f"bad source 'rbd:vm:key={KEY}'", "bad source 'rbd:vm:key=***'"),
        (f"rbd:rbd/vm:key={KEY.replace('=', chr(92) + '=')}:id=b", "rbd:rbd/vm:key=***:id=b"),
        (f"unrecognized arguments: --key={KEY} -okey={KEY}", None),
        (f"unrecognized arguments: --key {KEY} -rokey = {KEY}", None),
        ("wrong key or unreadable keyring=/etc/k", "wrong key or unreadable keyring=/etc/k"),
        ("mount point /mnt/monkey=1: \udcff", "mount point /mnt/monkey=1: \udcff"),
    ],
)
def test_messages(text: str, expected: str | None) -> None:
    assert KEY not in redacted(text)
    if expected is not None:
        assert redacted(text) == expected


def command_line(*arguments: str, script: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.split("\0")[3:-1]


@pytest.mark.parametrize(
    "arguments",
    [
        ["-o", f"key={KEY}"],
        ["-o", f"ro,key={KEY},id=x", "rbd", "/mnt"],
        [f"-okey={KEY}"],
        [f"-rfokey={KEY}"],
        ["-o", f" key = {KEY}"],
        [f"--key={KEY}"],
        ["--key", KEY],
        [f"rbd:rbd/vm:id=a:key={KEY}:conf=/x", "/mnt/file"],
    ],
    ids=" ".join,
)
def test_command_line_is_overwritten_in_place(arguments: list[str]) -> None:
    assert command_line(*arguments, script=SIGHT) == arguments
    stars = [argument.replace(KEY, "*" * len(KEY)) for argument in arguments]
    assert command_line(*arguments, script=CONCEALED) == stars


def test_command_line_without_a_key_stays() -> None:
    arguments = ["-o", "keyring=/etc/key,keyfile=/k", "--", "rbd", "/mnt/monkey=abc", "ünï"]
    assert command_line(*arguments, script=CONCEALED) == arguments


@pytest.fixture
def client(ceph: Ceph, pool: str, image_name: str) -> Iterator[tuple[str, str]]:
    """Id and key of a client that may use the pool, where it finds image `vm`."""
    name = f"user-{image_name}"
    caps = ["mon", "profile rbd", "osd", f"profile rbd pool={pool}"]
    with contextlib.suppress(Exception):
        import_image(ceph, f"{pool}/vm", b"vm")
    text = ceph.ceph("auth", "get-or-create", f"client.{name}", *caps)
    try:
        yield name, re.findall(r"key = (\S+)", text)[0]
    finally:
        ceph.ceph("auth", "rm", f"client.{name}")


def tellers(secret: str) -> list[str]:
    """What of /proc has *secret* in it: command lines, environments, tables of mounts."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ", "comm", "mountinfo", "mounts"):
            with contextlib.suppress(OSError):
                if secret.encode() in (process / name).read_bytes():
                    found.append(f"{process.name}/{name}")
    return found


def test_nobody_is_told_a_key(
    ceph: Ceph, pool: str, client: tuple[str, str], mounting: Mounting
) -> None:
    name, key = client
    settings = f"keyring=/dev/null,key={key}"
    with mounting(pool, "--id", name, "-d", "-o", settings, "-o", "manage") as mount:
        assert mount.file("vm").read_bytes() == b"vm"
        assert tellers(key) == []
        # Every new server is given it, too.
        if "datapath=python" not in " ".join(mount.command):
            assert key not in str(ask(mount, "status"))
            killed_server(mount)
            ask(mount, "restart")
            assert mount.file("vm").read_bytes() == b"vm"
        assert tellers(key) == []
        assert key not in os.fsdecode(os.getxattr(mount.file("vm"), "user.rbd.qemu"))
        assert not mount.file("nothing").exists()
        eventually(lambda: " DEBUG " in mount.log_text, what="the log's thread")
        assert key not in mount.log_text


def test_nobody_is_told_the_key_of_a_daemon(
    ceph: Ceph, pool: str, client: tuple[str, str], mounting: Mounting
) -> None:
    name, key = client
    path, log = mounting.mountpoint(), mounting.directory / "log"
    command = mounting.command(pool, path, "--id", name, "-d", "--log-file", str(log))
    command[1:1] = [f"-okeyring=/dev/null,key={key}"]
    process = subprocess.Popen(command)
    try:
        assert process.wait(TIMEOUT_S) == 0
        assert (path / "vm").read_bytes() == b"vm"
        (daemon,) = processes_naming(str(path))
        assert tellers(key) == []
        assert key not in log.read_text()
    finally:
        daemons = processes_naming(str(path))
        force_unmount(path)
        for pid in daemons:
            wait_for_end(pid)


def test_nobody_is_told_the_key_while_the_cluster_is_awaited(
    ceph: Ceph, pool: str, client: tuple[str, str], mounting: Mounting
) -> None:
    """The parent that waits, the daemon and its server: all have been given it."""
    name, key = client
    path = mounting.mountpoint()
    command = mounting.command(pool, path, "--id", name, "-o", f"keyring=/dev/null,key={key}")
    with ceph.stalled("osd.0"):
        process = subprocess.Popen(command)
        # The keeper and its parent; a server names nothing on its command line.
        eventually(lambda: len(processes_naming(str(path))) >= 2, what="the daemon")
        assert tellers(key) == []
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT_S) == 1
    for pid in processes_naming(str(path)):
        wait_for_end(pid)


def test_key_in_the_name_of_an_image(
    ceph: Ceph, pool: str, client: tuple[str, str], mounting: Mounting
) -> None:
    name, key = client
    file = mounting.directory / "disk.raw"
    file.touch()
    source = f"rbd:{pool}/vm:id={name}:keyring=/dev/null:key={key}"
    command = [str(RBDFS), "-f", "-d", "-c", str(ceph.conf), "--", source, str(file)]
    with Mount(command, file, mounting.directory / "log") as mount:
        assert mount.path.read_bytes() == b"vm"
        assert tellers(key) == []
        assert key not in mount.log_text
        assert key not in os.fsdecode(os.getxattr(file, "user.rbd.qemu"))


@pytest.mark.parametrize(
    "arguments",
    [
        [f"rbd:vm:key={KEY.replace('/', '0')}", "/mnt"],
        ["rbd", "/mnt", f"key={KEY}"],
        ["--key", KEY, "rbd", "/mnt"],
        ["-o", f"ro=key={KEY}", "rbd", "/mnt"],
        [f"rbd:rbd/vm:key={KEY}:nonsense", "/mnt"],
    ],
    ids=" ".join,
)
def test_usage_errors_quote_no_key(arguments: list[str]) -> None:
    done = subprocess.run([RBDFS, *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert re.fullmatch(r"rbdfs: .+\n", done.stderr)
    assert KEY.partition("/")[0] not in done.stderr
