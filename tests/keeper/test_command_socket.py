"""The command socket of a mount: who may ask, who may answer, and that nobody is in the way."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import stat
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from rbdfs.config.runtime_directory import ROOT_DIRECTORY
from rbdfs.keeper import command_socket
from rbdfs.keeper.command_socket import CommandSocket, socket_path
from rbdfs.keeper.messages import send_facts
from rbdfs.kernel.mount import place
from tests.support.conditions import eventually
from tests.support.impostors import impostor
from tests.support.mounts import RBDFS, TIMEOUT_S, mounted
from tests.support.servers import ask

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.mounts import Mount, Mounting

pytestmark = pytest.mark.usefixtures("native")

NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


def asked(command: str, path: Path | str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(RBDFS), command, str(path)], capture_output=True, text=True, timeout=TIMEOUT_S
    )


def assert_refused(done: subprocess.CompletedProcess[str], text: str) -> None:
    """One line, of characters that a terminal takes for nothing else."""
    assert (done.returncode, done.stdout) == (1, ""), done.stdout
    assert text in done.stderr
    assert done.stderr.removesuffix("\n").isprintable(), done.stderr


def socket_of(mount: Mount) -> Path:
    return socket_path(ROOT_DIRECTORY, place(str(mount.path)).device)


@contextlib.contextmanager
def connected(mount: Mount) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(TIMEOUT_S)
        sock.connect(str(socket_of(mount)))
        yield sock


def test_it_is_a_file_of_the_mounts_owner(pool: str, mounting: Mounting) -> None:
    with mounting(pool) as mount:
        path = socket_of(mount)
        status = path.stat()
        assert stat.S_ISSOCK(status.st_mode)
        assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o600, os.getuid())
        assert not path.parent.stat().st_mode & 0o066
        for directory in mount.path.parents:
            directory.chmod(directory.stat().st_mode | 0o011)
        nobody = [*NOBODY, str(RBDFS), "restart", str(mount.path)]
        done = subprocess.run(nobody, capture_output=True, text=True)
        assert_refused(done, "not yours to ask")
        assert ask(mount, "status")["generation"] == 1
    # The number is free, and another test may have a mount with it by now.
    assert not path.exists() or path.stat().st_ino != status.st_ino


def test_two_network_namespaces(pool: str, mounting: Mounting) -> None:
    """Two containers on one host network with the same path; a mount seen from another one."""
    with mounting(pool) as mount:
        inside = ["unshare", "--net", str(RBDFS), "status", str(mount.path)]
        done = subprocess.run(inside, capture_output=True, text=True, timeout=TIMEOUT_S)
        assert json.loads(done.stdout)["keeper"] == mount.pid, done.stderr


def test_strangers_on_it(pool: str, mounting: Mounting) -> None:
    """Who asks nonsense, or leaves before he is answered, changes nothing."""
    with mounting(pool) as mount:
        for message in (b"nonsense", b"\xff" * 300):
            with connected(mount) as sock:
                sock.send(message)
                assert b"unknown command" in sock.recv(4096)
        for message in (b"", b"status", b"restart"):
            with connected(mount) as sock:
                if message:
                    sock.send(message)
        eventually(lambda: ask(mount, "status")["state"] == "serving", what="the restart")
        assert ask(mount, "status")["generation"] == 2
        assert_refused(asked("status", mount.path.parent), "not a mount of rbdfs")
        assert_refused(asked("status", mount.path / "missing"), "No such file")


def test_who_says_nothing_keeps_nobody_waiting(pool: str, mounting: Mounting) -> None:
    with mounting(pool) as mount, contextlib.ExitStack() as stack:
        silent = [stack.enter_context(connected(mount)) for _ in range(100)]
        begun = time.monotonic()
        assert ask(mount, "status")["state"] == "serving"
        assert time.monotonic() - begun < 3
        for sock in silent:
            assert sock.recv(1) == b"", "dropped after a second"
        assert time.monotonic() - begun < 10
        assert len(os.listdir(f"/proc/{mount.pid}/fd")) < 30


def test_a_keeper_that_takes_no_questions(pool: str, mounting: Mounting) -> None:
    """It is busy, not gone: nobody is to mount over it for that."""
    with mounting(pool) as mount, contextlib.ExitStack() as stack:
        os.kill(mount.pid, signal.SIGSTOP)
        stack.callback(os.kill, mount.pid, signal.SIGCONT)
        with contextlib.suppress(BlockingIOError):
            while True:
                sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
                sock.setblocking(False)
                sock.connect(str(socket_of(mount)))
        begun = time.monotonic()
        assert_refused(asked("status", mount.path), "is busy")
        assert time.monotonic() - begun > 4.5
        os.kill(mount.pid, signal.SIGCONT)
        assert ask(mount, "status")["state"] == "serving"


ANSWER = json.dumps({"mountpoint": "/m", "source": "p", "state": "serving", "keeper": 1})


@pytest.mark.parametrize(
    ("uid", "answer", "refusal"),
    [
        (65534, ANSWER, "uid 65534 listens there"),
        (0, "[1]", "no answer"),
        (0, '"x"', "no answer"),
        (0, "{", "no answer"),
        (0, "{}", "no answer"),
        (0, "\x1b[31m\x07", "no answer"),
        (0, "[" * 100_000, "no answer"),
        (0, json.dumps({"error": "\x1b[31m\x07 \u202e"}), "\\x1b[31m\\x07 \\u202e"),
    ],
)
def test_answers_that_are_none(
    pool: str, mounting: Mounting, uid: int, answer: str, refusal: str
) -> None:
    with mounting(pool) as mount:
        path = socket_of(mount)
        path.unlink()
        with impostor(str(path), uid, answer):
            assert_refused(asked("status", mount.path), refusal)
        path.unlink()


@pytest.mark.parametrize("state", ["\x1b[2J", "serving\nrbd  /mnt  serving", "\ud800"], ids=ascii)
def test_a_state_that_is_none(pool: str, mounting: Mounting, state: str) -> None:
    """Anybody's keeper is asked for the list of all mounts."""
    with mounting(pool) as mount:
        path = socket_of(mount)
        path.unlink()
        with impostor(str(path), 0, json.dumps(json.loads(ANSWER) | {"state": state})):
            done = subprocess.run(
                [str(RBDFS), "mounts"], capture_output=True, text=True, timeout=TIMEOUT_S
            )
        path.unlink()
        assert (done.returncode, done.stderr) == (0, "")
        listed = done.stdout.split("\n")
        assert all(line.isprintable() for line in listed)
        assert [line.split() for line in listed if f" {mount.path} " in line] == [
            [pool, str(mount.path), "unknown", "-"]
        ]
        assert not any(line.startswith("rbd  /mnt ") for line in listed)


@pytest.mark.parametrize("uid", [0, 65534])
def test_keeper_of_the_version_before(
    pool: str, mounting: Mounting, tmp_path: Path, uid: int
) -> None:
    """It goes on after an upgrade, and listens on an abstract address made of the path.

    Of anybody: whoever has it answers for no mount that is not his own.
    """
    link = tmp_path / "link"
    with mounting(pool) as mount:
        link.symlink_to(mount.path)
        socket_of(mount).unlink()
        digest = hashlib.sha256(os.fsencode(mount.path)).hexdigest()[:32]
        with impostor(f"@rbdfs-keeper-{digest}", uid, ANSWER):
            for path in (mount.path, link):
                done = asked("status", path)
                if uid:
                    assert_refused(done, "uid 65534 listens there")
                else:
                    assert json.loads(done.stdout)["state"] == "serving", done.stderr


def test_somebody_else_has_the_name(pool: str, mounting: Mounting) -> None:
    """Nobody can keep a mount from starting, nor from being asked."""
    for _ in range(5):
        with mounting(pool) as before:
            device, path = place(str(before.path)).device, socket_of(before)
        if not path.exists():
            # No other test has a mount with that number.
            break
    with impostor(str(path), 65534, ANSWER), mounting(pool) as mount:
        # The number that is free is given to the next.
        if place(str(mount.path)).device == device:
            assert ask(mount, "status")["keeper"] == mount.pid


def test_pool_of_the_name_of_a_command(mounting: Mounting) -> None:
    mountpoint = mounting.mountpoint()
    done = asked("status", mountpoint)
    assert_refused(done, f"rbdfs -- status {mountpoint}")
    assert_refused(
        subprocess.run(
            mounting.command("status", mountpoint),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        ),
        "no such pool",
    )
    assert not mounted(mountpoint)


def test_an_answer_that_the_kernel_does_not_take_is_shorter() -> None:
    """As many of its files as fit, and never nothing at all."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        ours.setblocking(False)
        files = [{"spec": "x" * 1000, "number": number} for number in range(100)]
        send_facts(ours, {"state": "serving", "files": files})
        answer = json.loads(theirs.recv(1 << 18))
    assert answer["state"] == "serving"
    assert 0 < len(answer["files"]) < 100
    assert answer["files"] == files[: len(answer["files"])]


@contextlib.contextmanager
def with_callers(
    directory: Path, count: int
) -> Iterator[tuple[CommandSocket, list[socket.socket]]]:
    """A keeper's end, and so many that have connected to it."""
    with CommandSocket() as commands, contextlib.ExitStack() as stack:
        commands.listen("0:77")
        callers = [
            stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            for _ in range(count)
        ]
        for caller in callers:
            caller.settimeout(TIMEOUT_S)
            caller.connect(str(socket_path(directory, "0:77")))
        yield commands, callers


def test_a_keeper_that_comes_late_hears_what_was_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has been silent is dropped, and not who has waited to be heard."""
    monkeypatch.setattr(command_socket, "runtime_directory", lambda: tmp_path)
    with with_callers(tmp_path, 2) as (commands, (asking, silent)):
        for _ in (asking, silent):
            assert commands.receive() is None
        asking.send(b"status")
        monkeypatch.setattr(command_socket, "_SILENT_S", -1.0)
        commands.drop_silent()
        assert commands.receive() == "status"
        assert silent.recv(1) == b""
        commands.answer("status", {"state": "serving"})
        assert json.loads(asking.recv(256)) == {"state": "serving"}


def test_those_who_have_spoken_are_heard_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is answered, whoever is silent among them."""
    monkeypatch.setattr(command_socket, "runtime_directory", lambda: tmp_path)
    with with_callers(tmp_path, 4) as (commands, callers):
        for caller, command in zip(callers, (b"wait", b"", b"status", b"wait"), strict=True):
            if command:
                caller.send(command)
        commands.receive_waiting()
        commands.answer("wait", {"exit_code": 0})
        commands.close()
        over = {"error": "the mount is over"}
        answers = ({"exit_code": 0}, None, over, {"exit_code": 0})
        for caller, told in zip(callers, answers, strict=True):
            assert caller.recv(256) == (b"" if told is None else json.dumps(told).encode())
