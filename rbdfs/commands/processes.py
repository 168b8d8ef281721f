"""What the kernel tells of the processes of a mount, which need not answer."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rbdfs.config.log_ring import LOG, STACKS, STACKS_SIGNAL, last_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

# How long a process may take to write its stacks, in seconds; one that is stopped takes for ever.
_STACKS_S = 2.0
_LOOK_S = 0.05
# A file of /proc, or in the memory of somebody who may be anybody, is not read beyond this.
_MOST_BYTES = 1 << 20


def children(pid: int) -> list[int]:
    """Return the processes that *pid* has started."""
    text = read(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in text.split() if word.isdigit()]


def read(path: str) -> str:
    """Return what a file of /proc or /sys has; what is wrong, where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(_MOST_BYTES).decode("utf-8", "replace")
    except OSError as exc:
        return f"({exc.strerror})\n"


def log_lines(pid: int) -> list[str]:
    """Return the last lines that a process has logged; raise OSError."""
    with _memory(pid, LOG) as memory:
        return last_lines(memory)


def stacks(pid: int) -> str:
    """Return the stacks of the Python threads of a process; raise OSError where it gives none."""
    process = os.pidfd_open(pid)
    try:
        with _memory(pid, STACKS) as memory:
            if not _catches(pid, STACKS_SIGNAL):
                # It would end of it.
                raise ProcessLookupError(f"process {pid} does not know the signal")
            before = os.fstat(memory).st_size
            signal.pidfd_send_signal(process, STACKS_SIGNAL)
            after = _grown(memory, before)
            return os.pread(memory, min(after - before, _MOST_BYTES), before).decode(
                "utf-8", "replace"
            )
    finally:
        os.close(process)


def _grown(memory: int, before: int) -> int:
    """Return the size of a file when it has grown, and grows no more."""
    deadline, last = time.monotonic() + _STACKS_S, before
    while time.monotonic() < deadline:
        time.sleep(_LOOK_S)
        size = os.fstat(memory).st_size
        if size == last > before:
            return size
        last = size
    if last == before:
        raise TimeoutError("it does not write them: it is stopped, or hangs in the kernel")
    return last


@contextlib.contextmanager
def _memory(pid: int, name: str) -> Iterator[int]:
    """Open a file in memory that a process has open, by its name."""
    for entry in os.scandir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(entry.path) != f"/memfd:{name} (deleted)":
                continue
            descriptor = os.open(entry.path, os.O_RDONLY | os.O_NONBLOCK)
            break
    else:
        raise FileNotFoundError(2, f"process {pid} has no {name}")
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _catches(pid: int, number: signal.Signals) -> bool:
    found = re.search(r"^SigCgt:\s*([0-9a-f]+)", read(f"/proc/{pid}/status"), re.MULTILINE)
    return found is not None and bool(int(found[1], 16) >> (number - 1) & 1)


def state(pid: int) -> str:
    """Return the letter of proc(5) for what a process does; "" where there is none."""
    text = read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return text[0] if text and text[0].isalpha() else ""


def descriptors(pid: int) -> tuple[int, int]:
    """Return how many a process has open, and may have; raise OSError."""
    found = re.search(r"^Max open files\s+(\d+)", read(f"/proc/{pid}/limits"), re.MULTILINE)
    return len(os.listdir(f"/proc/{pid}/fd")), int(found[1]) if found else 1 << 30


def threads(pid: int) -> str:
    """Return what each thread does in the kernel, as far as the caller may see."""
    parts = []
    for task in sorted(Path(f"/proc/{pid}/task").iterdir(), key=lambda path: int(path.name)):
        name = read(f"{task}/comm").strip()
        wchan = read(f"{task}/wchan").strip()
        stat = read(f"{task}/stat").rpartition(")")[2].split()
        parts.append(f"{task.name} {name}: {stat[:1]} {wchan}\n{read(f'{task}/stack')}")
    return "\n".join(parts)
