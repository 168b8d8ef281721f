"""Answers to many who ask at the same time: one is made at a time, and shared by who waited."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# What an answer of prometheus_client's WSGI application depends on.
_ASKED = ("REQUEST_METHOD", "PATH_INFO", "QUERY_STRING", "HTTP_ACCEPT", "HTTP_ACCEPT_ENCODING")


@dataclass(frozen=True, slots=True)
class _Answer:
    asked: tuple[Any, ...]
    begun: float
    start: tuple[Any, ...]
    body: list[bytes]


class SharedAnswers:
    """A WSGI application that makes the answers of another one in turn.

    With a series for each of 4,096 images an answer has 32 MB and takes 2 s of Python's time. Ten
    at once took 2 GB, made whoever used the mount wait for seconds, and none was there within 20 s.

    Attributes:
        waiting: how many wait for an answer.
    """

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self._app = app
        self._turn, self._counting = threading.Lock(), threading.Lock()
        self._last: _Answer | None = None
        self.waiting = 0

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Answer with what was the state after the question had come; raise as the application."""
        came, asked = time.monotonic(), tuple(environ.get(name) for name in _ASKED)
        self._count(1)
        try:
            with self._turn:
                answer = self._last
                if answer is None or answer.asked != asked or answer.begun < came:
                    self._last = answer = None
                    self._last = answer = self._made(environ, asked)
        finally:
            self._count(-1)
        start_response(*answer.start)
        return answer.body

    def _made(self, environ: dict[str, Any], asked: tuple[Any, ...]) -> _Answer:
        begun, started = time.monotonic(), []
        body = list(self._app(environ, lambda *start: started.append(start)))
        return _Answer(asked, begun, started[0], body)

    def _count(self, more: int) -> None:
        with self._counting:
            self.waiting += more
            if not self.waiting:
                # It is large, and of no use to who comes later.
                self._last = None
