"""Tasks that go on beside a context."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@contextlib.asynccontextmanager
async def background() -> AsyncIterator[trio.Nursery]:
    """Yield a nursery for what goes on beside the context, and is cancelled at its end."""
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        try:
            yield nursery
        except Exception as exc:
            # As it is, and not in a group of the nursery's.
            failure = exc
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
