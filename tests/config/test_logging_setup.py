"""The log: who may read it, and that nobody waits for it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

TIMEOUT_S = 30.0

PRELUDE = """
import errno, logging, os, sys
from pathlib import Path
from rbdfs.config.logging_setup import configure_logging, finish, leave, repeats
from rbdfs.config.mount_options import MountOptions
from rbdfs.errors import Fenced, ImageGone
configure_logging(MountOptions(log_file=Path(sys.argv[1]), foreground=True))
log = logging.getLogger("test")
"""


def run(script: str, log: Path, umask: int = 0o022) -> tuple[int, float]:
    """The exit code of a process that logs, and how long it took in seconds."""
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + script, log],
        timeout=TIMEOUT_S,
        umask=umask,
        cwd=Path(__file__).parents[2],
    )
    return done.returncode, time.monotonic() - begun


def said(log: Path) -> list[str]:
    return [line.partition(": ")[2] for line in log.read_text().splitlines()]


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_others_cannot_read_the_file(tmp_path: Path, umask: int) -> None:
    """Neither the one that is there first, nor the one that comes after logrotate."""
    log, rotated = tmp_path / "log", tmp_path / "log.1"
    script = """
log.info("before")
finish(0)
os.rename(sys.argv[1], sys.argv[1] + ".1")
log.info("after")
sys.exit(finish(0))
"""
    assert run(script, log, umask)[0] == 0
    assert [stat.S_IMODE(path.stat().st_mode) for path in (log, rotated)] == [0o640] * 2
    assert "before" in rotated.read_text()
    assert "after" in log.read_text()


def test_the_mode_of_a_file_that_is_there_is_the_operators(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch(0o600)
    log.chmod(0o604)
    assert run("log.info('line')\nsys.exit(finish(0))", log)[0] == 0
    assert stat.S_IMODE(log.stat().st_mode) == 0o604


def test_repeats_are_counted(tmp_path: Path) -> None:
    """One line a file and errno, and how often in the end; what differs is told."""
    log = tmp_path / "log"
    script = """
for number in range(1000):
    fenced = Fenced(f"rbd/vm1: read {number}~4096: fenced")
    log.warning("read: %s", fenced, extra=repeats(fenced))
    gone = ImageGone(f"rbd/vm2: write {number}~4096: removed")
    log.warning("write: %s", gone, extra=repeats(gone))
log.warning("another")
log.warning("another")
sys.exit(finish(0))
"""
    assert run(script, log)[0] == 0
    assert said(log) == [
        "read: [Errno 108] rbd/vm1: read 0~4096: fenced",
        "write: [Errno 116] rbd/vm2: write 0~4096: removed",
        "another",
        "another",
        "read: [Errno 108] rbd/vm1: read 999~4096: fenced (999 times more)",
        "write: [Errno 116] rbd/vm2: write 999~4096: removed (999 times more)",
    ]


@pytest.mark.parametrize("end", ["sys.exit(finish(3))", "leave(3)"])
def test_nobody_waits_for_a_log_that_stands_still(tmp_path: Path, end: str) -> None:
    """A pipe that nobody reads: as a disk that hangs, or a syslog daemon that is stopped."""
    log = tmp_path / "log"
    os.mkfifo(log)
    reader = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
    try:
        code, took = run(f"for n in range(20_000):\n    log.info('%d', n)\n{end}", log)
        assert code == 3
        assert took < 10
    finally:
        os.close(reader)


def test_what_was_dropped_is_told(tmp_path: Path) -> None:
    log = tmp_path / "log"
    os.mkfifo(log)
    reader = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
    script = """
for number in range(20_000):
    log.info("%d", number)
print(flush=True)
sys.stdin.read()
log.info("the end")
sys.exit(finish(0))
"""
    with subprocess.Popen(
        [sys.executable, "-c", PRELUDE + script, log],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        os.set_blocking(reader, True)
        process.stdin.close()
        with open(reader, encoding="utf-8") as lines:
            text = lines.read()
    assert process.returncode == 0
    assert "lines are missing: the log stood still" in text


@pytest.mark.parametrize("lost", [1, 3])
def test_a_log_that_cannot_be_opened_anew_goes_on_once_it_can(tmp_path: Path, lost: int) -> None:
    """Its directory is away for a moment, as where its file system is mounted anew."""
    log, away = tmp_path / "logs" / "log", tmp_path / "away"
    log.parent.mkdir()
    script = f"""
directory = os.path.dirname(sys.argv[1])
log.info("before")
finish(0)
os.rename(directory, {str(away)!r})
for _ in range({lost}):
    log.info("lost")
finish(0)
os.mkdir(directory)
log.info("after")
log.info("the end")
sys.exit(finish(0))
"""
    assert run(script, log)[0] == 0
    assert said(away / "log") == ["before"]
    reason = f"[Errno 2] No such file or directory: '{log}'"
    assert said(log) == [f"{lost} lines are missing: {reason}", "after", "the end"]


def test_what_a_full_disk_has_no_room_for_is_told(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.symlink_to("/dev/full")
    script = """
for _ in range(100):
    log.info("lost" * 100)
finish(0)
os.unlink(sys.argv[1])
log.info("after")
log.info("the end")
sys.exit(finish(0))
"""
    assert run(script, log)[0] == 0
    reason = "[Errno 28] No space left on device"
    assert said(log) == [f"100 lines are missing: {reason}", "after", "the end"]
    assert stat.S_IMODE(log.stat().st_mode) == 0o640


def test_what_syslog_does_not_take_is_told(tmp_path: Path) -> None:
    """It is started anew, and its socket is away meanwhile."""
    script = """
import logging, os, socket, sys
from rbdfs.config import log_targets, logging_setup
from rbdfs.config.mount_options import MountOptions
log_targets._SYSLOG, log_targets._JOURNAL = sys.argv[1], "/nonexistent"
def listening():
    syslog = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    syslog.bind(sys.argv[1])
    return syslog
def heard():
    print(syslog.recv(65536).decode().rstrip(chr(0)).rpartition(": ")[2], flush=True)
log = logging.getLogger("test")
with listening() as syslog:
    logging_setup.configure_logging(MountOptions())
    log.info("before")
    heard()
os.unlink(sys.argv[1])
log.info("lost")
logging_setup.finish(0)
with listening() as syslog:
    log.info("after")
    heard()
    heard()
"""
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "syslog"],
        stdout=subprocess.PIPE,
        text=True,
        timeout=TIMEOUT_S,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.splitlines() == ["before", "[Errno 2] No such file or directory", "after"]


def test_a_traceback_is_written_whole(tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = """
try:
    raise ValueError("a mistake")
except ValueError:
    log.exception("failed")
leave(0)
"""
    assert run(script, log)[0] == 0
    text = log.read_text()
    assert " ERROR  (rbd): failed\nTraceback (most recent call last):\n" in text
    assert text.endswith("ValueError: a mistake\n")
