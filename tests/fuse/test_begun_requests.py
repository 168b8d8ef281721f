"""What the keeper is told of a request, and what the next server makes of it."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from rbdfs.files.keeping import Unremembered
from rbdfs.fuse import ownership
from rbdfs.fuse.begun_requests import CREATE, GETATTR, BegunRequest, BegunRequests
from rbdfs.fuse.operations import Operations
from rbdfs.model.entry import Entry, Key

if TYPE_CHECKING:
    import pytest

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


async def test_who_changes_attributes_takes_the_request_of_nobody_who_asks_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All of another pid namespace are thread 0: given up, it would end what has been changed."""
    taken: list[int] = []

    def constant(opcode: int, *_: int) -> contextlib.AbstractContextManager[None]:
        taken.append(opcode)
        return contextlib.nullcontext()

    async def same(entry: Any, **_: bool) -> Any:
        return entry

    async def change(*_: Any) -> bool:
        return True

    mounted: Any = SimpleNamespace(
        requests=SimpleNamespace(constant=constant),
        catalog=SimpleNamespace(current=same),
        inodes=SimpleNamespace(refresh=lambda _entry: None),
        entry=same,
        told=same,
        attributes=lambda _entry, inode: inode,
    )
    monkeypatch.setattr(ownership, "asked_for", lambda *_: "a mode")
    monkeypatch.setattr(ownership, "change", change)
    operations: Any = Operations(mounted, Unremembered())
    fields, ctx = SimpleNamespace(update_size=False), SimpleNamespace(pid=0)
    assert await operations.setattr(7, None, fields, None, ctx) == 7
    assert taken == []
    assert await operations.getattr(7, ctx) == 7
    assert taken == [GETATTR]
