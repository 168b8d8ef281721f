"""A start that cannot succeed ends in time, says what it has waited for, and leaves nothing."""

from __future__ import annotations

import base64
import os
import signal
import struct
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.ceph import run
from tests.support.conditions import eventually
from tests.support.mounts import TIMEOUT_S, mounted, processes_naming, wait_for_end

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mounting


def refused(command: list[str], text: str, timeout_s: float = TIMEOUT_S) -> None:
    """One line on stderr that has the text, nothing mounted, and no process left, in time."""
    begun = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    assert text in done.stderr
    assert time.monotonic() - begun < timeout_s
    assert processes_naming(command[-1]) == []


@pytest.mark.parametrize("mode", [("-f",), ()], ids=["foreground", "daemon"])
@pytest.mark.parametrize("data_path", ["native", "python"])
def test_osds_that_do_not_answer(
    ceph: Ceph, pool: str, mounting: Mounting, data_path: str, mode: tuple[str, ...]
) -> None:
    """Not only monitors count: the pool is read before it is mounted."""
    path = mounting.mountpoint()
    options = ["-o", f"datapath={data_path}", "--connect-timeout", "1", *mode]
    log = ["--log-file", str(mounting.directory / "log")]
    with ceph.stalled("osd.0"):
        command = mounting.command(pool, path, *options, *log)
        refused(command, f"did not answer within 1 s: reading {pool} (are its OSDs up", timeout_s=8)
    assert not mounted(path)


# rbdfs, whose servers stop the monitor before they connect their second client.
STOPPING = """
import sys
from rbdfs.keeper import server_process
from rbdfs.cli import main

server_process.SERVER = [sys.executable, "-c", sys.argv[2], sys.argv[1]]
sys.exit(main(sys.argv[3:]))
"""
STOPPING_SERVER = """
import os, signal, sys
from rbdfs.ceph.native_opener import native
from rbdfs.server.__main__ import main

class Client(native.Client):
    def connect(self):
        os.kill(monitor, signal.SIGSTOP)
        return super().connect()

monitor = int(sys.argv.pop(1))
native.Client = Client
sys.exit(main())
"""


@pytest.mark.usefixtures("native")
def test_second_client_that_does_not_connect(ceph: Ceph, pool: str, mounting: Mounting) -> None:
    path, monitor = mounting.mountpoint(), ceph.pid("mon.a")
    log = ["--log-file", str(mounting.directory / "log")]
    command = mounting.command(pool, path, "-f", "--connect-timeout", "2", *log)
    script = [sys.executable, "-c", STOPPING, str(monitor), STOPPING_SERVER]
    try:
        refused([*script, *command[1:]], "within 2 s: connecting a second client", timeout_s=12)
    finally:
        os.kill(monitor, signal.SIGCONT)
    assert not mounted(path)


@pytest.mark.parametrize("given", ["key", "keyfile", "keyring", "indented keyring"])
def test_a_key_of_a_type_that_came_later(
    ceph: Ceph, pool: str, mounting: Mounting, tmp_path: Path, given: str
) -> None:
    """librados 16 calls it a wrong one; since 20 there is aes256k, which it takes for unknown."""
    known = len(base64.b64decode(run("ceph-authtool", "--gen-print-key")))
    kind, name = (2, "aes256k") if known == 28 else (777, "a newer one")
    key = base64.b64encode(struct.pack("<HIIH", kind, 0, 0, 32) + bytes(32)).decode()
    file = tmp_path / "key"
    indent = "\t" if given.startswith("indented") else ""
    file.write_text(key if given == "keyfile" else f"[client.admin]\n{indent}key = {key}\n")
    option = f"key={key}" if given == "key" else f"{given.split()[-1]}={file}"
    command = mounting.command(pool, mounting.mountpoint(), "-o", option)
    text = f"the key of client.admin is of a type that this librados does not know ({name})"
    refused(command, text)


def test_a_setting_that_ceph_has_renamed(pool: str, mounting: Mounting) -> None:
    with mounting(pool, "-o", "auth_supported=cephx") as mount:
        assert mount.alive


def test_data_pool_that_is_not_there(pool: str, mounting: Mounting) -> None:
    """Not an error of the first cp, days later."""
    path = mounting.mountpoint()
    command = mounting.command(pool, path, "-o", "manage,data_pool=typo")
    refused(command, "-o data_pool: no such pool: typo")


@pytest.mark.parametrize("end", ["SIGTERM", "SIGHUP", "SIGINT", "SIGKILL", "timeout"])
def test_interrupted_start_leaves_no_daemon(
    ceph: Ceph, pool: str, mounting: Mounting, end: str
) -> None:
    """Nor one that mounts when the cluster is back, hours after somebody has given up."""
    path = mounting.mountpoint()
    log = ["--log-file", str(mounting.directory / "log")]
    command = mounting.command(pool, path, *log)
    with ceph.stalled("osd.0"):
        if end == "timeout":
            command = ["timeout", "600", *command]
        start = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        # The one who waits, and the keeper whose server is connecting, or the one that connects.
        alone = "datapath=python" in mounting.options
        daemon = eventually(lambda: daemon_of(start.pid, path, alone=alone), what="the daemon")
        assert daemon is not None
        # The alarm is what timeout(1) waits for itself.
        start.send_signal(signal.SIGALRM if end == "timeout" else signal.Signals[end])
        out, err = start.communicate(timeout=TIMEOUT_S)
        assert start.returncode != 0
        assert out == b""
        assert err.count(b"\n") == (0 if end == "SIGKILL" else 1), err
        wait_for_end(daemon)
        eventually(lambda: processes_naming(str(path)) == [], what="the end of all")
    assert not mounted(path)


def daemon_of(parent: int, path: Path, *, alone: bool) -> int | None:
    """What a waiting process has forked: once it has started a server, unless it serves alone."""
    others = set(processes_naming(str(path))) - {parent}
    for pid in others:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as children:
            below = [int(child) for child in children.read().split()]
        if (below or alone) and not others & set(below):
            return pid
    return None
