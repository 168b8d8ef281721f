"""Going to the background: what the caller sees, and in which state the daemon is."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rbdfs.errors import EXIT_USAGE, UserError
from rbdfs.keeper.daemonise import Starter, notify_service_manager
from tests.support.conditions import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT_S = 30.0

PRELUDE = """
import json, os, signal, sys
from rbdfs.keeper.daemonise import Starter, daemonise
from rbdfs.errors import UserError
starter = Starter()
daemonise(starter)
"""

# What the daemon knows of itself, into a pipe that the test reads to its end.
TELL = """
with open(int(os.environ["TELL"]), "w") as tell:
    json.dump({
        "pid": os.getpid(), "session": os.getsid(0), "directory": os.getcwd(),
        "descriptors": [os.readlink(f"/proc/self/fd/{number}") for number in range(3)],
    }, tell)
"""


def start(
    script: str, *, tell: int | None = None, stdin: int = subprocess.DEVNULL
) -> subprocess.Popen[str]:
    """A process that goes to the background; its daemon finds descriptor *tell* in TELL."""
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + script],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="surrogateescape",
        pass_fds=() if tell is None else (tell,),
        env=os.environ | {"TELL": str(tell)},
        cwd=Path(__file__).parents[2],
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr: their ends too are waited for, which a daemon must let go."""
    with process:
        try:
            out, err = process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return process.returncode, out, err


def run(script: str) -> tuple[int, str, str]:
    return finish(start(script))


def run_and_ask(script: str) -> tuple[tuple[int, str, str], dict[str, Any]]:
    """What the caller sees, and what the daemon tells of itself afterwards."""
    ours, daemons = os.pipe()
    with open(ours) as told:
        try:
            process = start(script + TELL, tell=daemons)
        finally:
            os.close(daemons)
        return finish(process), json.loads(told.read())


def test_the_parent_ends_well_when_the_mount_is_ready() -> None:
    seen, daemon = run_and_ask("starter.ready()\n")
    assert seen == (0, "", "")
    assert daemon["session"] == daemon["pid"], "the terminal's signals do not reach it"
    assert daemon["directory"] == "/", "it keeps no directory in use"
    assert daemon["descriptors"] == ["/dev/null"] * 3


def test_the_terminal_is_there_until_the_mount_is_ready() -> None:
    script = "print('from a library', file=sys.stderr, flush=True)\nstarter.ready()\nprint('lost')"
    assert run(script) == (0, "", "from a library\n")


@pytest.mark.parametrize("code", [1, 2, 255])
def test_the_parent_tells_why_nothing_is_mounted(code: int) -> None:
    assert run(f"starter.failed(UserError('no such pool: x', {code}))") == (
        code,
        "",
        "rbdfs: no such pool: x\n",
    )


def test_a_failure_is_told_in_one_line_of_any_characters() -> None:
    code, out, err = run("starter.failed(UserError('two\\nlines\\t\u00e4 ' + 'x' * 100_000))")
    assert (code, out) == (1, "")
    assert err == "rbdfs: two lines \u00e4 " + "x" * 100_000 + "\n"


def test_an_interruption_at_the_moment_of_the_fork_is_told() -> None:
    interrupted = """
fork = os.fork
def fork_and_interrupt():
    child = fork()
    if child:
        os.kill(os.getpid(), signal.SIGTERM)
    return child
os.fork = fork_and_interrupt
"""
    script = PRELUDE.replace("daemonise(starter)", f"{interrupted}daemonise(starter)")
    script += "signal.pause()\n"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=TIMEOUT_S
    )
    told = "rbdfs: ended unexpectedly (exit code -15)\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", told)


def test_a_name_that_is_no_utf8_is_no_reason_to_be_silent() -> None:
    code, _, err = run("starter.failed(UserError('no such pool: \\udcff'))")
    assert code == 1
    assert err.startswith("rbdfs: no such pool: ")


@pytest.mark.parametrize(
    ("ending", "reason"),
    [
        ("os._exit(0)", "0"),
        ("os._exit(7)", "7"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "-9"),
    ],
)
def test_a_daemon_that_ends_without_a_word_is_a_failure(ending: str, reason: str) -> None:
    assert run(ending) == (1, "", f"rbdfs: ended unexpectedly (exit code {reason})\n")


def test_a_traceback_of_the_daemon_reaches_the_terminal() -> None:
    code, _, err = run("raise ValueError('a mistake')")
    assert code == 1
    assert "ValueError: a mistake\n" in err
    assert err.endswith("rbdfs: ended unexpectedly (exit code 1)\n")


@pytest.mark.parametrize("signum", ["SIGKILL", "SIGTERM", "SIGHUP", "SIGINT"])
def test_the_daemon_ends_with_who_waits_for_it(signum: str) -> None:
    """Whoever waited is gone: a mount that comes later is one that nobody was told of."""
    ours, daemons = os.pipe()
    script = "os.write(int(os.environ['TELL']), b'started')\nsignal.pause()"
    process = start(script, tell=daemons)
    os.close(daemons)
    with open(ours) as told:
        assert told.read(7) == "started"
        await_handler(process.pid)
        process.send_signal(signal.Signals[signum])
        code, _, err = finish(process)
        assert told.read() == "", "the daemon is gone"
    if signum == "SIGKILL":
        assert (code, err) == (-9, "")
    else:
        assert (code, err) == (1, "rbdfs: ended unexpectedly (exit code -15)\n")


def test_a_signal_that_the_caller_ignores_is_ignored() -> None:
    """As of nohup: the terminal may be closed while the cluster does not answer."""
    ours, daemons = os.pipe()
    script = "os.write(int(os.environ['TELL']), b'started')\nsys.stdin.read()\nstarter.ready()\n"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = start(script, tell=daemons, stdin=subprocess.PIPE)
    finally:
        signal.signal(signal.SIGHUP, before)
    os.close(daemons)
    with open(ours) as told:
        assert told.read(7) == "started"
        await_handler(process.pid)
        process.send_signal(signal.SIGHUP)
        assert finish(process) == (0, "", "")


def test_a_parent_that_goes_at_the_last_moment() -> None:
    """It was not told of the mount, which then is to end."""
    script = """
import contextlib, ctypes
ctypes.CDLL(None).prctl(1, 0)
os.kill(os.getppid(), signal.SIGKILL)
while os.getppid() == parent:
    pass
with open(int(os.environ["TELL"]), "w") as tell:
    try:
        starter.ready()
    except UserError as exc:
        tell.write(str(exc))
"""
    ours, daemons = os.pipe()
    process = start("parent = os.getppid()" + script, tell=daemons)
    os.close(daemons)
    with open(ours) as told:
        assert finish(process) == (-signal.SIGKILL, "", "")
        assert told.read() == "who has waited for the mount has gone"


def await_handler(pid: int) -> None:
    """Wait until a process sleeps in read(2), as the parent does after it has set its handler."""
    wchan = Path(f"/proc/{pid}/wchan")
    eventually(lambda: "pipe_read" in wchan.read_text(), what="the parent to wait")


def test_a_failure_in_the_foreground(capsys: pytest.CaptureFixture[str]) -> None:
    Starter().failed(UserError("mount point /m\n is not empty", EXIT_USAGE))
    assert capsys.readouterr() == ("", "rbdfs: mount point /m is not empty\n")


def test_ready_in_the_foreground_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    Starter().ready()
    print("still here", flush=True)  # noqa: T201
    assert capfd.readouterr() == ("still here\n", "")


@pytest.fixture(params=["path", "abstract"])
def service_manager(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """A socket as systemd's, and NOTIFY_SOCKET set to it."""
    abstract = request.param == "abstract"
    name = f"rbdfs-{uuid.uuid4()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"\0{name}" if abstract else name)
        receiver.settimeout(TIMEOUT_S)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}" if abstract else name)
        yield receiver


def test_the_service_manager_is_told_in_the_foreground(service_manager: socket.socket) -> None:
    Starter().ready()
    assert service_manager.recv(4096).decode().split("\n") == ["READY=1", f"MAINPID={os.getpid()}"]


def test_the_service_manager_is_told_who_the_daemon_is(service_manager: socket.socket) -> None:
    seen, daemon = run_and_ask("starter.ready()\n")
    assert seen == (0, "", "")
    assert service_manager.recv(4096).decode() == f"READY=1\nMAINPID={daemon['pid']}"


def test_a_failure_is_not_readiness(service_manager: socket.socket) -> None:
    assert run("starter.failed(UserError('no such pool'))")[0] == 1
    service_manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        service_manager.recv(4096)


@pytest.mark.parametrize("address", [None, ""])
def test_without_a_service_manager(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify_service_manager("READY=1")


def test_a_service_manager_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As sudo and containers leave it: no reason to end a mount that is ready."""
    caplog.set_level("INFO")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    notify_service_manager("READY=1")
    assert "NOTIFY_SOCKET is ignored: No such file" in caplog.text
