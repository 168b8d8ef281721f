"""The tests' own mounts: they fail when they should, and leave nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.conditions import eventually
from tests.support.mounts import (
    TIMEOUT_S,
    Mount,
    MountError,
    mounted,
    processes_naming,
)
from tests.support.notifications import NotifySocket

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mounting

RECORD = "2026-11-22 15:00:00,123 rbdfs[7] {} /mnt (rbd): {}\n"


def logged(tmp_path: Path, text: str) -> Mount:
    log = tmp_path / "log"
    log.write_text(text)
    return Mount([], tmp_path, log)


def assert_gone(path: Path) -> None:
    assert not mounted(path)
    eventually(lambda: not processes_naming(str(path)), what="the end of all processes")
    assert os.listdir(path) == []


def test_debug_and_info_are_quiet(tmp_path: Path) -> None:
    logged(tmp_path, RECORD.format("INFO", "one") + RECORD.format("DEBUG", "two")).check_log()


@pytest.mark.parametrize(
    "text",
    [
        RECORD.format("WARNING", "odd"),
        RECORD.format("INFO", "fine") + RECORD.format("ERROR", "odd"),
        RECORD.format("INFO", "fine") + "Traceback (most recent call last):\n",
        "printed before the log is set up\n" + RECORD.format("INFO", "fine"),
        "no record at all",
    ],
)
def test_what_is_not_declared_fails(tmp_path: Path, text: str) -> None:
    mount = logged(tmp_path, text)
    with pytest.raises(MountError, match="unexpected in the log"):
        mount.check_log()
    mount.expect_log("odd|Traceback|printed|no record")
    mount.check_log()


def test_what_was_declared_has_to_be_there(tmp_path: Path) -> None:
    mount = logged(tmp_path, RECORD.format("INFO", "odd"))
    mount.expect_log("odd")
    with pytest.raises(MountError, match="not in the log"):
        mount.check_log()


def test_what_is_allowed_may_be_there_or_not(tmp_path: Path) -> None:
    for level in ("INFO", "ERROR"):
        mount = logged(tmp_path, RECORD.format(level, "odd"))
        mount.allow_log("odd")
        mount.check_log()


def test_failing_block_leaves_nothing(mounting: Mounting, pool: str) -> None:
    mount = mounting(pool)

    def fail() -> None:
        with mount:
            assert mount.alive
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as failure:
        fail()
    assert re.search("(?s)log of .*\n.* INFO .* mounted at", failure.value.__notes__[0])
    assert_gone(mount.path)


def test_busy_mount_fails_and_leaves_nothing(mounting: Mounting, pool: str, ceph: Ceph) -> None:
    ceph.rbd("create", "--size=1M", f"{pool}/busy")
    mount = mounting(pool)
    mount.__enter__()
    descriptor = os.open(mount.file("busy"), os.O_RDONLY)
    with pytest.raises(subprocess.CalledProcessError):
        mount.__exit__(None, None, None)
    assert_gone(mount.path)
    with pytest.raises(OSError, match="not connected"):
        os.close(descriptor)


def test_stopped_process_leaves_nothing(mounting: Mounting, pool: str) -> None:
    """The last means, for an rbdfs that answers neither requests nor signals."""
    mount = mounting(pool)

    def stop() -> None:
        with mount:
            mount.signal_all(signal.SIGSTOP)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert_gone(mount.path)


def test_request_without_answer_does_not_hang(mounting: Mounting, pool: str) -> None:
    with mounting(pool, lifetime_s=5.0, exit_code=-signal.SIGKILL) as mount:
        # Whichever of the two is killed first.
        mount.allow_log("CRITICAL .*the keeper is gone")
        mount.signal_all(signal.SIGSTOP)
        with pytest.raises(OSError, match="abort|not connected"):
            os.listdir(mount.path)


def test_failed_start_is_told_at_once(mounting: Mounting) -> None:
    mount = mounting("no-such-pool")
    with pytest.raises(MountError, match="rbdfs: no such pool.*no-such-pool"), mount:
        pass
    assert_gone(mount.path)


def test_unexpected_exit_code_fails(mounting: Mounting, pool: str) -> None:
    mount = mounting(pool)
    mount.__enter__()
    mount.signal(signal.SIGKILL)
    mount.wait()
    with pytest.raises(MountError, match="exit code -9"):
        mount.__exit__(None, None, None)
    assert_gone(mount.path)


def test_silent_process_is_not_waited_for_ever() -> None:
    with (
        NotifySocket() as notify,
        subprocess.Popen(
            [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process,
    ):
        with pytest.raises(TimeoutError):
            notify.receive(process.pid, timeout=0.2)
        process.communicate(b"\n", TIMEOUT_S)
