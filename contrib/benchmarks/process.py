"""Processes: started, waited for, ended by their id; and the CPU time they take."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

CHECKOUT = Path(__file__).resolve().parents[2]
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
START_S = 60.0
STOP_S = 60.0
POLL_S = 0.01


class BenchError(Exception):
    """Something a user is told in one line."""


def eventually(done: Callable[[], bool], what: str, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > deadline:
            raise BenchError(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(POLL_S)


def run(
    command: Sequence[object], timeout_s: float | None = None, *, successes: Sequence[int] = (0,)
) -> str:
    """The standard output of a command; BenchError with its last complaint.

    *successes* are the exit codes that are none of a failure.
    """
    argv = [str(part) for part in command]
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=timeout_s
        )
    except FileNotFoundError:
        raise BenchError(f"{argv[0]} is not installed (contrib/setup installs it)") from None
    except subprocess.TimeoutExpired:
        raise BenchError(f"{' '.join(argv[:2])} took more than {timeout_s:.0f} s") from None
    if done.returncode not in successes:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[0]
        raise BenchError(f"{' '.join(argv[:4])}: exit code {done.returncode}: {said}")
    return done.stdout


@contextlib.contextmanager
def server(
    command: Sequence[object],
    mounts: Sequence[Path],
    log: Path,
    close: Callable[[subprocess.Popen[bytes]], None],
) -> Iterator[int]:
    """A file system server in the foreground: its process id, once all its mounts are there.

    *close* asks it to end. Raises BenchError where it does not, or with another exit code than 0.
    """
    argv = [str(part) for part in command]
    with log.open("wb") as output:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        eventually(
            lambda: process.poll() is not None or all(is_mounted(path) for path in mounts),
            f"the mount of {Path(argv[0]).name}",
            START_S,
        )
        if process.poll() is None:
            for path in mounts:
                # Answered only when the server serves.
                path.stat()
            yield process.pid
    finally:
        _end(process, mounts, close)
    if process.returncode:
        said = (log.read_text(errors="replace").strip() or "nothing").splitlines()[-1]
        raise BenchError(f"{Path(argv[0]).name} ended with exit code {process.returncode}: {said}")


def _end(
    process: subprocess.Popen[bytes],
    mounts: Sequence[Path],
    close: Callable[[subprocess.Popen[bytes]], None],
) -> None:
    """Let the server end, so that no watcher and no lock is left; kill it if it does not."""
    try:
        if process.poll() is None:
            close(process)
            process.wait(STOP_S)
    except (BenchError, subprocess.TimeoutExpired):
        # The exit code tells the caller.
        process.kill()
        process.wait()
    for path in mounts:
        if is_mounted(path):
            run(["fusermount3", "-u", "-z", path])


def is_mounted(path: Path) -> bool:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
        return any(line.split(" ", 5)[4] == str(path) for line in mounts)


def terminate(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)


def tree(pids: Sequence[int]) -> list[int]:
    """The processes and all their descendants."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            parents[int(stat.parent.name)] = int(_stat_fields(stat)[1])
    found = list(pids)
    for pid in found:
        found.extend(child for child, parent in parents.items() if parent == pid)
    return found


def cpu_seconds(pids: Sequence[int]) -> float:
    """User and system time that processes have taken so far."""
    fields = (_stat_fields(Path(f"/proc/{pid}/stat")) for pid in pids)
    return sum(int(field[11]) + int(field[12]) for field in fields) / TICKS_PER_S


def machine_seconds() -> tuple[float, float]:
    """(busy, all) CPU time of the machine so far."""
    with open("/proc/stat", encoding="ascii") as stat:
        times = [int(field) for field in stat.readline().split()[1:9]]
    idle = times[3] + times[4]
    return (sum(times) - idle) / TICKS_PER_S, sum(times) / TICKS_PER_S


def _stat_fields(path: Path) -> list[str]:
    """The fields of /proc/PID/stat from the third, the state, on: the second may hold anything."""
    return path.read_text().rpartition(")")[2].split()
