"""Waiting for a condition, with a deadline: the only place in the tests that sleeps."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")
POLL_S = 0.02
# What changes elsewhere is seen within 2 s; the rest is for a slow host.
SEEN_S = 4.0


def eventually(predicate: Callable[[], T], timeout: float = 30.0, what: str = "the condition") -> T:
    """The first true value of the predicate; AssertionError if there is none in `timeout` s.

    What the predicate raises goes to the caller at once.
    """
    deadline = time.monotonic() + timeout
    while True:
        # Read before the predicate runs, so that a slow host still gets one try after the deadline.
        late = time.monotonic() > deadline
        value = predicate()
        if value:
            return value
        if late:
            raise AssertionError(f"not within {timeout:g} s: {what} (last seen: {value!r})")
        time.sleep(POLL_S)


async def eventually_async(
    predicate: Callable[[], Awaitable[T]], timeout: float = 30.0, what: str = "the condition"
) -> T:
    """As `eventually`, for an async predicate."""
    deadline = trio.current_time() + timeout
    while True:
        late = trio.current_time() > deadline
        value = await predicate()
        if value:
            return value
        if late:
            raise AssertionError(f"not within {timeout:g} s: {what} (last seen: {value!r})")
        await trio.sleep(POLL_S)


def is_stopped(pid: int) -> bool:
    """Whether no thread of a process runs."""
    stats = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    return all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)


def in_read(pid: int) -> bool:
    """Whether a process waits in read(2), system call 0."""
    with open(f"/proc/{pid}/syscall", encoding="ascii") as syscall:
        return syscall.read().startswith("0 ")
