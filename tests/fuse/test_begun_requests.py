"""What the keeper is told of a request, and what the next server makes of it."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

from rbdfs.fuse.begun_requests import CREATE, BegunRequest, BegunRequests
from rbdfs.model.entry import Entry, Key

RENAMED, REPLACED = (Entry(Key(1, "", name), "pool", image=name) for name in ("a", "b"))


def test_what_is_replaced_is_told_of_until_the_end() -> None:
    """The second server finds nothing with the name any more; the third one has to know."""
    told: list[Any] = []
    keeping: Any = SimpleNamespace(begun=lambda number, request: told.append(request))
    BegunRequest(7, None, keeping).begin(RENAMED, REPLACED)
    second = BegunRequest(7, told[0], keeping)
    assert second.replaced == REPLACED
    assert second.was_of(RENAMED.key)
    assert not second.was_of(REPLACED.key)
    second.begin(RENAMED)
    assert told[1] == told[0]
    assert BegunRequest(7, told[1], keeping).replaced == REPLACED


def test_what_replaces_nothing() -> None:
    told: list[Any] = []
    keeping: Any = SimpleNamespace(begun=lambda number, request: told.append(request))
    BegunRequest(7, None, keeping).begin()
    BegunRequest(8, None, keeping).begin(RENAMED)
    assert told == [{}, {"entry": RENAMED.record()}]
    assert BegunRequest(7, told[0], keeping).replaced is None
    assert BegunRequest(7, told[0], keeping).was_of(RENAMED.key)
    # No keeper.
    BegunRequest(0, None, keeping).begin(RENAMED, REPLACED)
    assert len(told) == 2


def test_what_was_left_is_remembered_until_it_is_carried_out() -> None:
    """However many others end before: should this server die as well, the next one has to know."""
    numbers = iter([4 | 1 << 63, *range(1000, 1200, 2), 2 | 1 << 63])
    answered: list[int] = []
    path: Any = SimpleNamespace(
        take_request=lambda *_: next(numbers), interruptible=lambda _: contextlib.nullcontext()
    )
    keeping: Any = SimpleNamespace(begun=lambda *_: None, answered=answered.append)
    requests = BegunRequests(path, keeping, {number: {} for number in range(2, 202, 2)})
    with requests.request(1, 1, CREATE) as again:
        assert again.left == {}
        for _ in range(100):
            with requests.request(1, 1, CREATE) as other:
                other.begin()
        assert answered
        assert min(answered) >= 1000
        with requests.request(1, 1, CREATE) as late:
            assert late.left == {}
    answered.clear()
    requests.forget_left()
    assert answered == list(range(6, 202, 2))
    requests.forget_left()
    assert len(answered) == 98
