"""The vital signs of a mount: memory, CPU time, descriptors and threads of its two processes."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.ceph import MIB
from benchmarks.process import BenchError, cpu_seconds, run, server

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_ANSWER_S = 60.0


@dataclass(frozen=True)
class Process:
    """What one process holds.

    Attributes:
        rss_mib: of memory that is resident.
        fds: open descriptors.
    """

    rss_mib: float
    fds: int
    threads: int

    @classmethod
    def of(cls, pid: int) -> Process:
        proc = Path(f"/proc/{pid}")
        pages = int((proc / "statm").read_text().split()[1])
        return cls(
            pages * _PAGE_BYTES / MIB,
            len(os.listdir(proc / "fd")),
            len(os.listdir(proc / "task")),
        )


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        server, keeper: before and after.
        cpu_s: of both together.
        lag_ms: no turn of the server's Trio thread took longer.
    """

    scene: str
    what: str
    seconds: float
    server: tuple[Process, Process]
    keeper: tuple[Process, Process]
    cpu_s: float
    lag_ms: float

    def json(self) -> dict[str, Any]:
        return asdict(self)


class Watched:
    """A mount, and its rows so far.

    Attributes:
        path: the mount point.
    """

    def __init__(self, scene: str, program: Path, path: Path) -> None:
        self.path = path
        self.rows: list[Row] = []
        self._scene = scene
        self._program = program
        status = self._status()
        self._server, self._keeper = int(status["server"]), int(status["keeper"])
        self._lag = dict(status["lag"])

    def look(self) -> tuple[Process, Process]:
        """The server and the keeper, as they are now."""
        return Process.of(self._server), Process.of(self._keeper)

    @contextlib.contextmanager
    def measured(self, what: str) -> Iterator[None]:
        """Measure what is done in the block: a row."""
        before, cpu_s = self.look(), self._cpu_s()
        begun = time.monotonic()
        yield
        seconds, cpu_s = time.monotonic() - begun, self._cpu_s() - cpu_s
        server, keeper = zip(before, self.look(), strict=True)
        turns, self._lag = self._lag, self._look_at_lag()
        lag_ms = _longest(turns, self._lag)
        self.rows.append(Row(self._scene, what, seconds, server, keeper, cpu_s, lag_ms))
        print(f"{time.strftime('%T')} {self._scene}, {what}: {seconds:.1f} s", file=sys.stderr)

    def _cpu_s(self) -> float:
        return cpu_seconds([self._server, self._keeper])

    def _look_at_lag(self) -> dict[str, Any]:
        status = self._status()
        if status["server"] != self._server:
            raise BenchError(f"the server was replaced: {status['last_fault']}")
        return dict(status["lag"])

    def _status(self) -> dict[str, Any]:
        return dict(json.loads(run([self._program, "status", self.path], _ANSWER_S)))


def _longest(before: dict[str, Any], after: dict[str, Any]) -> float:
    """What no turn between two looks took longer than, in ms."""
    longest_ms = float(after["longest_ms"])
    # The look itself takes a turn.
    bounds = [bound for bound, turns in after["turns"].items() if turns > before["turns"][bound]]
    return longest_ms if bounds[-1] == "more" else min(float(bounds[-1]), longest_ms)


@contextlib.contextmanager
def watched(
    scene: str, program: Path, conf: Path, pool: str, work: Path, options: Sequence[str]
) -> Iterator[Watched]:
    """A mount of *pool* with these -o options, which has to end as it should."""
    path = work / f"mnt-{scene}"
    path.mkdir()
    words = [word for option in options for word in ("-o", option)]
    command = [program, "-f", *words, "-c", conf, pool, path]

    def unmount(_process: object) -> None:
        run(["fusermount3", "-u", path])

    with server(command, [path], work / f"{scene}.log", unmount):
        yield Watched(scene, program, path)
