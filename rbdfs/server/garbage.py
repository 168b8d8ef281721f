"""Cyclic garbage, collected without looking at all that is kept."""

from __future__ import annotations

import contextlib
import gc
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_OLDEST = 2
# How often everything is looked at, in seconds, by a mount that has something to do.
_FULL_S = 600.0


@contextlib.contextmanager
def collected_in_parts(clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """Have Python's full collections look at what is new since the last one, in this block.

    A full one visits each object that there is, and no task has its turn meanwhile: with 250,000
    names in the caches that is a million objects and half a second. So what has outlived one is set
    aside (gc.freeze), where its reference count still frees it, and only a cycle would stay. For
    those everything is looked at from time to time.
    """
    looked = clock()

    def on_collection(phase: str, info: dict[str, int]) -> None:
        nonlocal looked
        if info["generation"] != _OLDEST:
            return
        if phase == "stop":
            gc.freeze()
        elif clock() - looked > _FULL_S:
            looked = clock()
            gc.unfreeze()

    gc.callbacks.append(on_collection)
    try:
        yield
    finally:
        gc.callbacks.remove(on_collection)
        gc.unfreeze()
