"""Requests that pass a gate, and those that wait before it."""

from __future__ import annotations

import trio
from trio.testing import wait_all_tasks_blocked

from rbdfs.files.gate import Gate


async def test_what_comes_to_a_closed_gate_waits() -> None:
    gate, passed = Gate(), trio.Event()

    async def request() -> None:
        async with gate.passed():
            passed.set()

    async with trio.open_nursery() as nursery:
        with gate.frozen():
            assert gate.is_frozen
            await gate.drained()
            nursery.start_soon(request)
            await wait_all_tasks_blocked()
            assert not passed.is_set()
        await passed.wait()
    assert not gate.is_frozen


async def test_what_has_passed_is_waited_for() -> None:
    gate, leave, empty = Gate(), trio.Event(), trio.Event()

    async def request() -> None:
        async with gate.passed():
            await leave.wait()

    async def empty_it() -> None:
        with gate.frozen():
            await gate.drained()
            empty.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(request)
        nursery.start_soon(request)
        await wait_all_tasks_blocked()
        nursery.start_soon(empty_it)
        await wait_all_tasks_blocked()
        assert not empty.is_set()
        leave.set()
    assert empty.is_set()
