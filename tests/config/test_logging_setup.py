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
    lines = log.read_text().splitlines()
    assert [line.partition(": ")[2] for line in lines] == [
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
    assert " ERROR test: failed\nTraceback (most recent call last):\n" in text
    assert text.endswith("ValueError: a mistake\n")
