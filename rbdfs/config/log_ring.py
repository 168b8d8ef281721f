"""What a process leaves in memory for `rbdfs debug`, which asks it for nothing: it may hang.

The last lines of its log, and where its threads are, each in a file in memory that it keeps open:
who may look at its descriptors in /proc finds them by their names, also where it is stopped.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal

LOG, STACKS = "rbdfs-log", "rbdfs-stacks"
STACKS_SIGNAL = signal.SIGUSR2
"""Has a process write the stacks of its threads behind what is in STACKS."""

LINES = 10_000
RING_BYTES = 1 << 21
"""Of LOG. LINES of it are looked at; they are 120 bytes long in the middle."""

_HEAD_BYTES = 8


class Ring(logging.Handler):
    """Keeps what was logged last in a file in memory, without waiting for anybody.

    The file begins with a number of 8 bytes, in little endian: how many bytes were written in all.
    They follow, each at its place modulo RING_BYTES.
    """

    def __init__(self) -> None:
        super().__init__()
        self._memory = os.memfd_create(LOG)
        os.ftruncate(self._memory, _HEAD_BYTES + RING_BYTES)
        self._written = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            data = f"{self.format(record)}\n".encode("utf-8", "backslashreplace")[-RING_BYTES:]
            place = self._written % RING_BYTES
            first = data[: RING_BYTES - place]
            os.pwrite(self._memory, first, _HEAD_BYTES + place)
            if rest := data[len(first) :]:
                os.pwrite(self._memory, rest, _HEAD_BYTES)
            self._written += len(data)
            os.pwrite(self._memory, self._written.to_bytes(_HEAD_BYTES, "little"), 0)
        except Exception:
            # No memory is left, most likely; and the log itself has the line.
            self.handleError(record)


def last_lines(memory: int) -> list[str]:
    """Return the last LINES of a Ring, whose file is open for reading as *memory*.

    Of a process that goes on writing meanwhile, the oldest may be of another time.
    """
    written = int.from_bytes(os.pread(memory, _HEAD_BYTES, 0), "little")
    data = os.pread(memory, RING_BYTES, _HEAD_BYTES)
    if written > len(data) > 0:
        place = written % len(data)
        # The first line of what is left has lost its beginning.
        data = (data[place:] + data[:place]).partition(b"\n")[2]
    else:
        data = data[:written]
    return data.decode("utf-8", "replace").splitlines()[-LINES:]


def leave_stacks() -> None:
    """Have STACKS_SIGNAL write the stacks of all threads, also where none can run Python."""
    memory = os.memfd_create(STACKS)
    os.set_blocking(memory, False)
    faulthandler.register(STACKS_SIGNAL, file=memory, all_threads=True, chain=False)
