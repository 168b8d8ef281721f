"""How serving ends where it fails."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pyfuse3
import pytest
import trio

from rbdfs.errors import EXIT_FAILURE, Failure
from rbdfs.model.metering import Metering
from rbdfs.server import run


async def test_a_server_that_fails_leaves_though_the_cluster_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On its way out it waits for what is under way, and the next one has to wait for its end."""
    acquitted, left, codes = threading.Event(), threading.Event(), list[int]()

    async def fail(**_tasks: int) -> None:
        raise Failure("the kernel's requests cannot be read", 5)

    async def commands() -> Any:
        await trio.sleep_forever()
        yield

    def leave(code: int) -> None:
        codes.append(code)
        left.set()

    monkeypatch.setattr(pyfuse3, "main", fail)
    monkeypatch.setattr(run.Serving, "_watch_signals", lambda *_: None)
    monkeypatch.setattr(run, "DRAIN_S", 0.01)
    monkeypatch.setattr(run, "leave", leave)
    operations: Any = SimpleNamespace(
        ready=trio.Event(), mounted=SimpleNamespace(metering=Metering.unread())
    )
    path: Any = SimpleNamespace(acquit=acquitted.set)
    nothing: Any = SimpleNamespace(commands=commands)
    serving = run.Serving(operations, path, nothing, nothing, nothing, nothing)
    with pytest.RaisesGroup(pytest.RaisesExc(Failure)):
        await serving.run()
    assert await trio.to_thread.run_sync(left.wait, 20)
    assert codes == [EXIT_FAILURE]
    # What waits is not to blame.
    assert acquitted.is_set()
