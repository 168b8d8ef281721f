"""The bridge from librbd's threads to Trio."""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from rbdfs.ceph.aio import AioBridge
from tests.support.fakes import FakeCompletion

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    OnComplete = Callable[..., None]


class Requests:
    """Submitted requests, to be completed by the test from another thread.

    As a context, entered after the nursery of those who wait: they cannot be cancelled, so what
    a failing test leaves is completed at the end.
    """

    def __init__(self) -> None:
        self._callbacks: list[OnComplete] = []
        self._completed: set[int] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.complete(*(set(range(len(self._callbacks))) - self._completed))

    def __len__(self) -> int:
        return len(self._callbacks)

    def submit(self, on_complete: OnComplete) -> None:
        self._callbacks.append(on_complete)

    def complete_here(self, index: int) -> None:
        """Complete a request on the thread that calls this."""
        self._completed.add(index)
        self._callbacks[index](FakeCompletion(index), f"data {index}")

    def complete(self, *indexes: int) -> None:
        """Complete requests in the order of *indexes* from one thread, while Trio stands still."""

        def run() -> None:
            for index in indexes:
                self.complete_here(index)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()


class Calls:
    """Tasks that each await one request; their results by number."""

    def __init__(self, bridge: AioBridge, requests: Requests) -> None:
        self.results: dict[int, tuple[int, Any]] = {}
        self._bridge = bridge
        self._requests = requests

    async def call(self, number: int, *, task_status: trio.TaskStatus[None]) -> None:
        def submit(on_complete: OnComplete) -> None:
            self._requests.submit(on_complete)
            task_status.started()

        self.results[number] = await self._bridge.call(f"call {number}", submit)


async def test_each_task_gets_its_own_result_whatever_the_order_of_completions() -> None:
    requests = Requests()
    calls = Calls(AioBridge(), requests)
    async with trio.open_nursery() as nursery, requests:
        for number in range(4):
            await nursery.start(calls.call, number)
        requests.complete(2)
        await trio.testing.wait_all_tasks_blocked()
        assert calls.results == {2: (2, "data 2")}, "a request does not wait for those before it"
        requests.complete(3, 0, 1)
    assert calls.results == {number: (number, f"data {number}") for number in range(4)}


async def test_a_request_without_data() -> None:
    def submit(on_complete: OnComplete) -> None:
        on_complete(FakeCompletion(0))

    assert await AioBridge().call("flush", submit) == (0, None)


async def test_cancellation_waits_for_the_completion() -> None:
    """librbd uses the caller's buffer until the request completes."""
    requests, scope, returned = Requests(), trio.CancelScope(), trio.Event()
    bridge = AioBridge()
    results = []

    async def reader() -> None:
        with scope:
            results.append(await bridge.call("read", requests.submit))
        returned.set()

    async with trio.open_nursery() as nursery, requests:
        nursery.start_soon(reader)
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert not returned.is_set()
        requests.complete(0)
    assert results == [(0, "data 0")], "what was carried out is reported as carried out"
    assert not scope.cancelled_caught


async def test_a_cancelled_task_submits_nothing() -> None:
    submitted = []

    def submit(on_complete: OnComplete) -> None:
        submitted.append(on_complete)
        on_complete(FakeCompletion(0))

    with trio.CancelScope() as scope:
        scope.cancel()
        await AioBridge().call("read", submit)
    assert scope.cancelled_caught
    assert submitted == []


async def test_a_negative_return_value_is_an_oserror_with_action_and_errno() -> None:
    def submit(on_complete: OnComplete) -> None:
        on_complete(FakeCompletion(-errno.ESHUTDOWN))

    with pytest.raises(OSError, match="pool/vm1: write 4096~512: ") as caught:
        await AioBridge().call("pool/vm1: write 4096~512", submit)
    assert caught.value.errno == errno.ESHUTDOWN
    assert os.strerror(errno.ESHUTDOWN) in str(caught.value)


async def test_what_submit_raises_is_raised() -> None:
    def submit(_on_complete: OnComplete) -> None:
        raise ValueError("image is closed")

    bridge = AioBridge()
    with pytest.raises(ValueError, match="image is closed"):
        await bridge.call("read", submit)
    assert await bridge.call("read", lambda done: done(FakeCompletion(7))) == (7, None)


async def test_a_completion_that_has_no_return_value_wakes_the_task() -> None:
    class Broken:
        def get_return_value(self) -> int:
            raise RuntimeError("no return value")

    with pytest.raises(RuntimeError, match="no return value"):
        await AioBridge().call("read", lambda on_complete: on_complete(Broken()))


async def test_a_completion_before_submit_returns() -> None:
    """As librbd may do for a request that needs no OSD, on its thread or on ours."""
    bridge = AioBridge()

    def submit_elsewhere(on_complete: OnComplete) -> None:
        thread = threading.Thread(target=on_complete, args=(FakeCompletion(2), b"ab"))
        thread.start()
        thread.join()

    assert await bridge.call("a", lambda done: done(FakeCompletion(1), b"a")) == (1, b"a")
    assert await bridge.call("b", submit_elsewhere) == (2, b"ab")


async def test_ten_thousand_requests_completed_by_several_threads() -> None:
    """No wake is lost and no result mixed up while threads and Trio race."""
    count, threads = 10_000, 8
    requests = Requests()
    calls = Calls(AioBridge(), requests)

    def complete(first: int) -> None:
        for index in range(first, count, threads):
            requests.complete_here(index)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery, requests:
            for number in range(count):
                await nursery.start(calls.call, number)
            async with trio.open_nursery() as completing:
                for first in range(threads):
                    completing.start_soon(trio.to_thread.run_sync, complete, first)
    assert calls.results == {number: (number, f"data {number}") for number in range(count)}


class RecordingToken:
    """Counts how often Trio is entered from outside."""

    def __init__(self, token: trio.lowlevel.TrioToken) -> None:
        self.entries = 0
        self._token = token

    def run_sync_soon(self, function: Callable[..., object], *args: object) -> None:
        self.entries += 1
        self._token.run_sync_soon(function, *args)


async def test_completions_that_arrive_together_enter_trio_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    token = RecordingToken(trio.lowlevel.current_trio_token())
    with monkeypatch.context() as patch:
        patch.setattr(trio.lowlevel, "current_trio_token", lambda: token)
        bridge = AioBridge()
    requests = Requests()
    calls = Calls(bridge, requests)
    async with trio.open_nursery() as nursery, requests:
        for number in range(200):
            await nursery.start(calls.call, number)
        requests.complete(*range(150))
        assert token.entries == 1
        await trio.testing.wait_all_tasks_blocked()
        assert len(calls.results) == 150
        requests.complete(*range(150, 200))
        assert token.entries == 2
    assert len(calls.results) == 200


def test_a_completion_after_the_run_has_ended_raises_nothing() -> None:
    submitted: list[OnComplete] = []

    async def main() -> None:
        def submit(on_complete: OnComplete) -> None:
            submitted.append(on_complete)
            on_complete(FakeCompletion(0))

        await AioBridge().call("read", submit)

    trio.run(main)
    submitted[0](FakeCompletion(0))
