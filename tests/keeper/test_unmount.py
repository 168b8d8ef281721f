"""`rbdfs umount`: the end of a mount is waited for, and who keeps it from ending is named."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from rbdfs.commands.umount import CLEARED
from rbdfs.errors import UserError
from rbdfs.keeper import unmount
from tests.support.ceph import run
from tests.support.conditions import eventually
from tests.support.images import MIB, import_image, random_bytes
from tests.support.loops import loop_device
from tests.support.mounts import RBDFS, TIMEOUT_S, mounted, wait_for_end
from tests.support.servers import kill_keeper_and_server, server_of
from tests.support.terminals import Terminal

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount, Mounting

pytestmark = pytest.mark.usefixtures("native")


def umount(path: Path | str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(RBDFS), "umount", *arguments, str(path)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


def refusal(path: Path | str, *arguments: str) -> dict[str, Any]:
    """What is told as JSON, where the line says the same."""
    done = umount(path, "--json", *arguments)
    assert done.returncode == 1
    told: dict[str, Any] = json.loads(done.stdout)
    assert done.stderr == f"rbdfs: {told['error']}\n"
    return told


@contextlib.contextmanager
def doing(script: str, *arguments: str, cwd: Path | str = "/") -> Iterator[int]:
    """A process that does something, says so, and stays."""
    command = [
        sys.executable,
        "-c",
        f"import sys, time; {script}; print(flush=True); time.sleep(60)",
    ]
    with subprocess.Popen([*command, *arguments], cwd=cwd, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"\n"
            yield process.pid
        finally:
            process.kill()


@pytest.fixture(scope="module")
def image(ceph: Ceph, pool: str) -> str:
    import_image(ceph, f"{pool}/image", random_bytes(MIB))
    return "image"


def test_it_returns_when_the_mount_is_over(pool: str, image: str, mounting: Mounting) -> None:
    for arguments in ((), ("--json",)):
        with mounting(pool, "-o", "cache=writeback") as mount:
            server = server_of(mount)
            assert server is not None
            mount.file(image).read_bytes()
            done = umount(mount.path, *arguments)
            assert (done.returncode, done.stderr) == (0, "")
            assert not mounted(mount.path)
            # The server, which is not the keeper's child any more, and the keeper itself.
            assert not os.path.exists(f"/proc/{server}")
            assert mount.process.poll() == 0
            if arguments:
                told = {"source": pool, "mountpoint": str(mount.path)}
                assert json.loads(done.stdout) == told | {"unmounted": True, "waited": True}
            else:
                assert done.stdout == ""


def test_who_uses_it_is_named(pool: str, image: str, mounting: Mounting) -> None:
    with mounting(pool) as mount:
        file = mount.file(image)
        with doing("f = open(sys.argv[1])", str(file)) as reader:
            assert (
                refusal(mount.path)["processes"]
                == [{"pid": reader, "command": "python3", "uses": ["1 open file"]}]
                or refusal(mount.path)["processes"][0]["pid"] == reader
            )
            assert f"{reader} (python" in umount(mount.path).stderr
        mapping = "import mmap, os; f = open(sys.argv[1]); m = mmap.mmap(f.fileno(), 4096, "
        mapping += "mmap.MAP_SHARED, mmap.PROT_READ); f.close()"
        with doing(mapping, str(file)) as mapper, doing("pass", cwd=mount.path) as inside:
            found = {each["pid"]: each["uses"] for each in refusal(mount.path)["processes"]}
            # mmap(2) of Python has a descriptor of its own.
            assert found.keys() == {mapper, inside}
            assert "mapped file" in found[mapper]
            assert found[inside] == ["working directory"]
        assert mount.alive
        assert umount(mount.path).returncode == 0


def test_a_loop_device_and_what_is_mounted_below(pool: str, image: str, mounting: Mounting) -> None:
    with mounting(pool, "-o", "manage") as mount:
        with loop_device(mount.file(image), "--read-only") as device:
            assert refusal(mount.path)["loop_devices"] == [device]
            assert device in umount(mount.path).stderr
        below = mount.file("namespace")
        below.mkdir()
        run("mount", "-t", "tmpfs", "none", str(below))
        try:
            assert refusal(mount.path)["mounts"] == [str(below)]
        finally:
            run("umount", str(below))
        below.rmdir()


def test_one_that_takes_long(pool: str, image: str, mounting: Mounting) -> None:
    with mounting(pool) as mount:
        server = server_of(mount)
        assert server is not None
        mount.file(image).read_bytes()
        os.kill(server, signal.SIGSTOP)
        try:
            told = refusal(mount.path, "--timeout", "0.5")
        finally:
            os.kill(server, signal.SIGCONT)
        assert told["unmounted"] is True
        assert f"process {mount.pid} goes on" in told["error"]
        assert not mounted(mount.path)
        assert mount.wait() == 0


@pytest.mark.parametrize("exit_code", [0, 1], ids=["to the end", "not so long"])
def test_a_terminal_shows_what_is_left(
    pool: str, image: str, mounting: Mounting, exit_code: int
) -> None:
    """One line, which is gone in the end; who has no terminal is told nothing, see waiting()."""
    with mounting(pool) as mount:
        server = server_of(mount)
        assert server is not None
        mount.file(image).read_bytes()
        os.kill(server, signal.SIGSTOP)
        # The time is enough for the line to be shown, if the test means to see the end.
        timeout_s = 2.5 if exit_code else TIMEOUT_S
        command = [RBDFS, "umount", "--timeout", timeout_s, mount.path]
        line = r"^unmounted, closing for \d+ s: \d+ open files, \d+ requests in flight$"
        try:
            with Terminal(command) as terminal:
                if not exit_code:
                    eventually(lambda: "in flight" in terminal.said, what="the line")
                    os.kill(server, signal.SIGCONT)
                assert terminal.ended() == exit_code
                said = terminal.said.split(CLEARED)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(server, signal.SIGCONT)
        first, *shown, last = said
        assert first == ""
        assert shown
        assert all(re.match(line, each) for each in shown)
        assert ("goes on" in last) if exit_code else (last == "")
        assert mount.wait() == 0


@contextlib.contextmanager
def waiting(mount: Mount, message: str, exit_code: int = 1) -> Iterator[tuple[int, int]]:
    """`rbdfs umount` and the server, which stands still, by their process ids.

    In the end it fails with the exit code and a line that has the message.
    """
    server = server_of(mount)
    assert server is not None
    os.kill(server, signal.SIGSTOP)
    command = [str(RBDFS), "umount", str(mount.path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            eventually(lambda: not mounted(mount.path), what="the end of the mount")
            yield process.pid, server
            _, shown = process.communicate(timeout=TIMEOUT_S)
        finally:
            process.kill()
    assert (process.returncode, message in shown) == (exit_code, True), shown
    assert shown.count("\n") == (1 if message else 0), shown


def test_one_that_ends_badly(pool: str, mounting: Mounting) -> None:
    """What could not be written is no success."""
    with mounting(pool, exit_code=1) as mount:
        with waiting(mount, "is unmounted, but its end was not clean"):
            mount.signal(signal.SIGTERM)
            eventually(lambda: "SIGTERM: ending" in mount.log_text, what="the first signal")
            mount.signal(signal.SIGTERM)
        mount.wait()
        mount.expect_log("second signal")
        mount.allow_log(r"was killed \(signal 9\)")


def test_a_keeper_that_hears_of_the_end_before_the_question(
    pool: str, image: str, mounting: Mounting
) -> None:
    """Who has asked in time is answered, whichever of both it gets to first."""
    with mounting(pool) as mount:
        server = server_of(mount)
        assert server is not None
        mount.signal(signal.SIGSTOP)
        # What it is told of the file is before the question.
        mount.file(image).read_bytes()
        command = [str(RBDFS), "umount", str(mount.path)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            try:
                wait_for_end(server)
                mount.signal(signal.SIGCONT)
                _, shown = process.communicate(timeout=TIMEOUT_S)
            finally:
                process.kill()
        assert (process.returncode, shown) == (0, "")
        assert not mounted(mount.path)


def test_somebody_else_is_first(
    pool: str, mounting: Mounting, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mounting(pool) as mount:

        def connected(path: str, *_arguments: object) -> socket.socket:
            run("umount", path)
            raise UserError("not in time")

        monkeypatch.setattr(unmount, "connected", connected)
        with pytest.raises(UserError, match=r"^'.*' was unmounted by somebody else meanwhile$"):
            unmount.unmount(str(mount.path), TIMEOUT_S)
        assert mount.wait() == 0


def test_who_waits_may_leave(pool: str, mounting: Mounting) -> None:
    with mounting(pool) as mount:
        with waiting(mount, "", -signal.SIGINT) as (pid, server):
            os.kill(pid, signal.SIGINT)
        os.kill(server, signal.SIGCONT)
        assert mount.wait() == 0


def test_a_keeper_that_is_killed_meanwhile(pool: str, mounting: Mounting) -> None:
    with mounting(pool, exit_code=None) as mount:
        with waiting(mount, "is unmounted, but its keeper has gone without a word") as (_, server):
            mount.signal(signal.SIGKILL)
        # It is continued when the keeper dies.
        wait_for_end(server)
        # What a server says that has lost its keeper is for other tests.
        mount.allow_log(".")


def test_a_dead_one(pool: str, mounting: Mounting) -> None:
    with mounting(pool, exit_code=None) as mount:
        kill_keeper_and_server(mount)
        assert umount(mount.path).returncode == 0
        assert not mounted(mount.path)


def test_one_without_a_keeper(pool: str, mounting: Mounting) -> None:
    with mounting(pool, "-o", "datapath=python") as mount:
        assert json.loads(umount(mount.path, "--json").stdout)["waited"] is False
        assert not mounted(mount.path)
        assert mount.wait() == 0


def test_another_mount_on_it_stays(pool: str, mounting: Mounting) -> None:
    with mounting(pool) as mount:
        run("mount", "-t", "tmpfs", "none", str(mount.path))
        try:
            assert "is not a mount of rbdfs" in umount(mount.path).stderr
        finally:
            run("umount", str(mount.path))
        assert mount.alive


def test_what_is_no_mount(pool: str, image: str, mounting: Mounting, tmp_path: Path) -> None:
    assert "is not a mount of rbdfs" in refusal(tmp_path)["error"]
    assert "No such file" in refusal(tmp_path / "missing")["error"]
    for arguments in ((), ("--timeout", "0", "/mnt"), ("--lazy", "/mnt"), ("/mnt", "/srv")):
        done = subprocess.run([str(RBDFS), "umount", *arguments], capture_output=True)
        assert done.returncode == 2
    with mounting(pool) as mount:
        assert str(mount.path) in refusal(mount.file(image))["error"]
        assert mount.alive


def test_by_any_path(pool: str, mounting: Mounting, tmp_path: Path) -> None:
    link = tmp_path / "link"
    with mounting(pool) as mount:
        link.symlink_to(mount.path)
        assert umount(link).returncode == 0
        assert not mounted(mount.path)
        wait_for_end(mount.pid)
