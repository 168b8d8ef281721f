"""Completion of bash, zsh and fish: what they offer, and that they never wait for long."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from documenting.command import CHECKOUT

from rbdfs.config import option_words
from rbdfs.config.command_line import COMMANDS
from rbdfs.config.option_texts import options
from tests.support.mounts import TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mounting

SCRIPTS = CHECKOUT / "contrib/completion"
# What readline has of a line, and what it makes of it.
BASH = f"""
source {SCRIPTS}/rbdfs.bash
COMP_LINE=$1 COMP_POINT=${{#1}}
_rbdfs rbdfs
((${{#COMPREPLY[@]}} == 0)) || printf '%s\\n' "${{COMPREPLY[@]}}"
"""
SETUP = {
    "bash": f"PS1='> '; bind 'set bell-style none'; source {SCRIPTS}/rbdfs.bash\n",
    "zsh": f"PS1='> '; fpath=({SCRIPTS} $fpath); autoload -Uz compinit; compinit -u -D\n",
}
COMMAND_LINES = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
}


def needs(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")


@pytest.fixture
def rados(tmp_path: Path) -> Path:
    """The rados(8) that completions find, whose script a test writes."""
    program = tmp_path / "bin" / "rados"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nprintf 'rbd\\nvms\\n'\n")
    program.chmod(0o755)
    return program


def offered(shell: list[str], rados: Path | None) -> list[str]:
    """The lines that a script of a shell prints."""
    path = os.environ["PATH"] if rados is None else f"{rados.parent}:{os.environ['PATH']}"
    done = subprocess.run(
        shell,
        env=os.environ | {"PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def bash(line: str, rados: Path | None = None) -> list[str]:
    return offered(["bash", "-c", BASH, "bash", line], rados)


def fish(line: str, rados: Path) -> list[str]:
    needs("fish")
    script = f"source {SCRIPTS}/rbdfs.fish; complete -C '{line}'"
    words = offered(["fish", "--no-config", "-c", script], rados)
    return [word.partition("\t")[0] for word in words]


@contextlib.contextmanager
def terminal(command: list[str], environment: dict[str, str]) -> Iterator[int]:
    """A program on a terminal of its own, as the descriptor of our end."""
    pid, descriptor = pty.fork()
    if pid == 0:
        os.execvpe(command[0], command, environment)
    try:
        yield descriptor
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(descriptor)


def typed(descriptor: int, text: str, awaited: str) -> str:
    """Type, and return what is shown when *awaited* is among it."""
    os.write(descriptor, text.encode())
    read, shown, deadline = b"", "", time.monotonic() + TIMEOUT_S
    while awaited not in shown:
        left = deadline - time.monotonic()
        assert left > 0, f"{awaited!r} is not in {shown!r}"
        if select.select([descriptor], [], [], left)[0]:
            read += os.read(descriptor, 4096)
            # Without bells and control sequences.
            shown = re.sub(r"\x07|\x1b\[[0-9;?]*[A-Za-z]", "", read.decode(errors="replace"))
    return shown


def test_commands_and_pools(rados: Path) -> None:
    assert set(bash("rbdfs ", rados)) == {*COMMANDS, "rbd", "vms"}
    assert bash("rbdfs statu", rados) == ["status"]
    # A file, which bash finds by itself.
    assert bash("rbdfs stat /", rados) == bash("rbdfs map -- -", rados) == []
    assert bash("rbdfs mount ", rados) == ["rbd", "vms"]
    assert bash("rbdfs -- ", rados) == ["rbd", "vms"]
    assert bash("rbdfs -o ro v", rados) == ["vms"]
    # The mount point: a directory, which bash finds by itself.
    assert bash("rbdfs mount rbd ", rados) == []
    assert bash("rbdfs --all-pools ", rados) == []
    assert set(fish("rbdfs ", rados)) == {*COMMANDS, "rbd", "vms"}
    assert fish("rbdfs mount ", rados) == ["rbd", "vms"]


def test_switches(rados: Path) -> None:
    switches = {switch for option in options() for switch in option.switches}
    for line in ("rbdfs -", "rbdfs mount -"):
        assert set(bash(line)) == switches | {"-o", "-h", "--help", "--json", "--version"}
    assert bash("rbdfs mount --conn") == ["--connect-timeout"]
    assert set(bash("rbdfs status -")) == {"-h", "--help", "--json", "--prometheus"}
    assert bash("rbdfs -- -") == []
    assert fish("rbdfs mount --conn", rados) == ["--connect-timeout"]


def test_mount_options(rados: Path) -> None:
    words = {word.rstrip("=") for word in bash("rbdfs -o ")}
    assert words == option_words.names() - {"rw"}
    assert bash("rbdfs mount -o ro,snap") == ["ro,snapshots="]
    # What stands before a = is no part of the word that bash replaces.
    assert bash("rbdfs -o ro,snapshots=h") == ["hidden"]
    assert bash("rbdfs -o cache=") == ["none", "writethrough", "writeback", "unsafe"]
    assert bash("rbdfs -o manage=") == ["snapshots"]
    assert bash("rbdfs -o data_pool=v", rados) == ["vms"]
    assert bash("rbdfs -o uid=") == []
    assert "ro,snapshots=hidden" in fish("rbdfs mount -o ro,snapshots=h", rados)
    assert fish("rbdfs -o data_pool=v", rados) == ["data_pool=vms"]


def test_pools_that_a_shell_would_obey(rados: Path) -> None:
    """Whoever makes pools writes nothing on a command line but their names."""
    rados.write_text("#!/bin/sh\nprintf '%s\\n' 'a b' 'x;touch y' '$(id)' 'q,r' ' =' \"it's\"\n")
    quoted = ["a\\ b", "x\\;touch\\ y", "\\$\\(id\\)", "q,r", "\\ =", "it\\'s"]
    assert bash("rbdfs mount ", rados) == quoted
    # In a list of options a comma is written with a backslash.
    listed = [name.replace(",", "\\\\,") for name in quoted]
    assert bash("rbdfs -o data_pool=", rados) == listed
    assert bash("rbdfs -o ro,data_pool=x", rados) == [quoted[1]]
    # What is quoted already is no end of a word, and so is replaced with the rest.
    for typed_so_far in ("a\\ ", "a\\ b"):
        assert bash(f"rbdfs mount {typed_so_far}", rados) == [quoted[0]]
    assert bash("rbdfs -- x\\;to", rados) == [quoted[1]]
    assert bash("rbdfs -o data_pool=x\\;to", rados) == [quoted[1]]
    assert bash("rbdfs -o data_pool=a\\ b,notr", rados) == ["a\\ b,notrim"]
    # In a quoted word a backslash means something else.
    assert bash("rbdfs mount 'a ", rados) == bash('rbdfs mount -o data_pool="a ', rados) == []
    assert fish("rbdfs mount ", rados) == ["a b", "x;touch y", "$(id)", "q,r", " =", "it's"]


def test_a_cluster_that_does_not_answer(rados: Path) -> None:
    """Its pools are not offered, and nothing is said of it."""
    rados.write_text("#!/bin/sh\ntrap '' TERM\nsleep 1000\n")
    assert set(bash("rbdfs ", rados)) == set(COMMANDS)
    assert set(fish("rbdfs ", rados)) == set(COMMANDS)
    for script in ("echo error >&2; exit 1", "kill -9 $$"):
        rados.write_text(f"#!/bin/sh\n{script}\n")
        assert set(bash("rbdfs ", rados)) == set(COMMANDS)
        assert set(fish("rbdfs ", rados)) == set(COMMANDS)


def test_pools_of_the_cluster_that_is_named(ceph: Ceph, pool: str, rados: Path) -> None:
    for arguments in (f"-c {ceph.conf}", f"--conf {ceph.conf} --id admin -f"):
        assert pool in bash(f"rbdfs {arguments} ")
    assert bash(f"rbdfs -c {ceph.conf} {pool[:-1]}") == [pool]
    rados.write_text('#!/bin/sh\necho "$*" | tr " " :\n')
    arguments = "-k k --id i -m m --cluster n"
    for found in (bash(f"rbdfs {arguments} -o ro -", rados), fish(f"rbdfs {arguments} ", rados)):
        assert found
    assert f"{arguments.replace(' ', ':')}:lspools" in bash(f"rbdfs {arguments} -o ro ", rados)
    assert f"{arguments.replace(' ', ':')}:lspools" in fish(f"rbdfs {arguments} ", rados)


@pytest.mark.usefixtures("native")
def test_mount_points(pool: str, mounting: Mounting, rados: Path) -> None:
    path = mounting.mountpoint("with space=x:y")
    with mounting(pool, mountpoint=path) as mount:
        typed_so_far = f"rbdfs status {mounting.directory}/"
        # One that hangs is not looked at.
        mount.signal_all(signal.SIGSTOP)
        try:
            (found,) = bash(typed_so_far)
            assert found == f"{mounting.directory}/with\\ space=x:y"
            assert bash(f"{typed_so_far}with\\ sp") == [found]
            assert bash(f"{typed_so_far}with\\ space=x:") == ["y"]
            assert str(path) in fish(typed_so_far, rados)
            assert bash(f"rbdfs status {path.parent} ") == []
        finally:
            mount.signal_all(signal.SIGCONT)


@pytest.mark.parametrize("shell", sorted(SETUP))
def test_a_shell_on_a_terminal(shell: str, rados: Path) -> None:
    needs(shell)
    environment = {
        "PATH": f"{rados.parent}:{os.environ['PATH']}",
        "TERM": "dumb",
        "HOME": str(rados.parent),
        "LC_ALL": "C.UTF-8",
    }
    rados.write_text("#!/bin/sh\nprintf '%s\\n' vms 'x;touch y'\n")
    with terminal(COMMAND_LINES[shell], environment) as descriptor:
        typed(descriptor, SETUP[shell] + "echo be''gun\n", "begun")
        for line, awaited in (
            ("rbdfs statu\t", "rbdfs status "),
            ("rbdfs v\t", "rbdfs vms "),
            ("rbdfs mount --conn\t", "--connect-timeout"),
            ("rbdfs -o ro,snapsh\thid\t", "ro,snapshots=hidden"),
            ("rbdfs x\t", "rbdfs x\\;touch\\ y "),
            ("rbdfs x\\;t\t", "rbdfs x\\;touch\\ y "),
            ("rbdfs -o ro,data_pool=x\t", "data_pool=x\\;touch\\ y"),
        ):
            typed(descriptor, line, awaited)
            typed(descriptor, "\x15echo ne''xt\n", "next")


def test_every_script_is_installed() -> None:
    rules = (CHECKOUT / "contrib/debian/rules").read_text()
    assert {path.name for path in SCRIPTS.iterdir()} == {"rbdfs.bash", "_rbdfs", "rbdfs.fish"}
    for path in SCRIPTS.iterdir():
        assert f"contrib/completion/{path.name}" in rules
