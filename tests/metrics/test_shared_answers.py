"""Many who scrape at the same time get one answer, made after the last of them had come."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from rbdfs.metrics.shared_answers import SharedAnswers
from tests.support.conditions import eventually

if TYPE_CHECKING:
    from collections.abc import Callable


class Application:
    """Answers with the number of the answer, and takes as long as the test wants."""

    def __init__(self) -> None:
        self.made = self.running = self.most = 0
        self.go_on = threading.Event()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        self.made += 1
        self.running += 1
        self.most = max(self.most, self.running)
        assert self.go_on.wait(60)
        self.running -= 1
        if environ["PATH_INFO"] == "/fails":
            raise OSError("no meters")
        start_response("200 OK", [("X-Number", str(self.made))])
        return [b"%d" % self.made]


def asked(shared: SharedAnswers, path: str = "/metrics") -> tuple[list[Any], bytes]:
    started: list[Any] = []
    body = shared({"PATH_INFO": path}, lambda *start: started.append(start))
    return started, b"".join(body)


def test_one_is_made_at_a_time_and_shared() -> None:
    shared = SharedAnswers(application := Application())
    with ThreadPoolExecutor(9) as threads:
        first = threads.submit(asked, shared)
        eventually(lambda: application.made == 1, what="the first is being made")
        others = [threads.submit(asked, shared) for _ in range(8)]
        eventually(lambda: shared.waiting == 9, what="all have come")
        application.go_on.set()
        assert first.result(60)[1] == b"1"
        # Not the one that had begun before they came.
        second = ([("200 OK", [("X-Number", "2")])], b"2")
        assert [other.result(60) for other in others] == [second] * 8
    assert application.most == 1
    assert asked(shared)[1] == b"3"


def test_a_failure_is_that_of_one() -> None:
    shared = SharedAnswers(application := Application())
    application.go_on.set()
    for _ in range(2):
        with pytest.raises(OSError, match="no meters"):
            asked(shared, "/fails")
        assert shared.waiting == 0
    assert asked(shared)[1] == b"3"
