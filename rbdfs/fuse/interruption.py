"""Requests that change nothing, for as long as somebody waits for them.

The data path answers for a caller that was killed, or has a signal to handle (datapath/src/
interrupts.h). Whoever carries out the request is cancelled then: in a pool that does not answer,
requests of `timeout 5 cat` would otherwise pile up until it does.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import trio

from rbdfs.errors import Interrupted

if TYPE_CHECKING:
    from collections.abc import Iterator


class Interruptions:
    """The requests that are carried out, by the kernel's number."""

    def __init__(self) -> None:
        self._scopes: dict[int, trio.CancelScope] = {}

    @contextlib.contextmanager
    def scope(self, number: int, *, given_up: bool) -> Iterator[None]:
        """Be cancelled within the context if the request is given up; raise Interrupted then.

        *given_up*: it has been already.
        """
        with trio.CancelScope() as scope:
            self._scopes[number] = scope
            if given_up:
                scope.cancel()
            try:
                yield
            finally:
                del self._scopes[number]
        if scope.cancelled_caught:
            raise Interrupted("nobody waits for it any more")

    def give_up(self, number: int) -> None:
        """Cancel what carries out the request, if anything does."""
        if (scope := self._scopes.get(number)) is not None:
            scope.cancel()
