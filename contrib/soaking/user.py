"""A user: a process that makes system calls on a mount, as it is told, and tells how they went.

`python -m soaking.user FD`: messages come and go on the socket FD, pickled. It is a process of its
own because some of what it calls may never return.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from soaking.system_calls import SystemCalls

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from soaking.operations import Operation

# What names a path waits while the mount point is taken away and mounted anew.
WITHOUT_PATH = frozenset(
    {
        "write", "read", "fsync", "ftruncate", "fallocate", "fstat", "close", "dup_close",
        "fork_close", "mmap_read", "mmap_write", "pause", "rbd", "export",
    }
)  # fmt: skip
GATE_POLL_S = 0.01


class User:
    """Plays one script after the other."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def run(self) -> None:
        while True:
            with contextlib.suppress(EOFError):
                self._play(**self._connection.recv())
                continue
            return

    def _play(
        self,
        *,
        mount: Path,
        scratch: Path,
        gate: Path,
        conf: Path,
        pools: dict[str, str],
        operations: tuple[Operation, ...],
        deadline: float,
        user: int,
    ) -> None:
        calls = SystemCalls(mount, scratch, conf, pools, user)
        try:
            for index, operation in enumerate(operations):
                if time.monotonic() > deadline and operation.kind != "close":
                    continue
                self._perform(calls, gate, index, operation)
        finally:
            calls.close_all()
        self._connection.send(("over", time.monotonic()))

    def _perform(self, calls: SystemCalls, gate: Path, index: int, operation: Operation) -> None:
        call = getattr(calls, operation.kind)
        with _passing(gate) if operation.kind not in WITHOUT_PATH else contextlib.nullcontext():
            start = time.monotonic()
            self._connection.send(("begin", index, start))
            error, value = None, None
            try:
                value = call(**operation.args)
            except OSError as exc:
                error, value = exc.errno, str(exc)
            except subprocess.TimeoutExpired as exc:
                error, value = None, f"no end: {exc}"
            self._connection.send(("end", index, start, time.monotonic(), error, value))


@contextlib.contextmanager
def _passing(gate: Path) -> Iterator[None]:
    # flock(2) lets those who share pass for ever, so who wants it alone says so with a file.
    while closed(gate).exists():
        time.sleep(GATE_POLL_S)
    with gate.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


def closed(gate: Path) -> Path:
    """The file that is there while nobody may pass."""
    return gate.with_suffix(".closed")


if __name__ == "__main__":
    User(Connection(int(sys.argv[1]))).run()
    # Not through the interpreter's end: nothing is left to be tidied, and a thread may hang.
    os._exit(0)
