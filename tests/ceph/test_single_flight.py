"""The cache whose refresh is shared."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from rbdfs.ceph.single_flight import Lane, SingleFlight
from rbdfs.errors import Missing, TimedOut

if TYPE_CHECKING:
    from trio.testing import MockClock

TTL_S = 1.0


class Source:
    """Loads numbered values, when the test lets it."""

    def __init__(self, *, ready: bool = True) -> None:
        self.loads = 0
        self.error: Exception | None = None
        self.gate = trio.Event()
        if ready:
            self.gate.set()

    async def load(self) -> str:
        self.loads += 1
        number = self.loads
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return f"value {number}"


async def test_a_fresh_value_is_not_loaded_again(mock_clock: MockClock) -> None:
    source, cache = Source(), SingleFlight[str](TTL_S, 10)
    assert await cache.get("a", source.load) == "value 1"
    mock_clock.jump(TTL_S * 0.99)
    assert await cache.get("a", source.load) == "value 1"
    mock_clock.jump(TTL_S * 0.02)
    assert await cache.get("a", source.load) == "value 2"


async def test_a_value_is_as_old_as_the_beginning_of_its_load(mock_clock: MockClock) -> None:
    source, cache = Source(ready=False), SingleFlight[str](TTL_S, 10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cache.get, "a", source.load)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(TTL_S * 0.8)
        source.gate.set()
    mock_clock.jump(TTL_S * 0.3)
    assert await cache.get("a", source.load) == "value 2"


async def test_keys_are_separate() -> None:
    source, cache = Source(), SingleFlight[str](TTL_S, 10)
    assert await cache.get("a", source.load) == "value 1"
    assert await cache.get("b", source.load) == "value 2"
    assert await cache.get("a", source.load) == "value 1"


async def get_many(cache: SingleFlight[str], source: Source, count: int) -> list[object]:
    """What *count* tasks that ask at the same time get: values, or the exceptions raised."""
    results: list[object] = []

    async def get() -> None:
        try:
            results.append(await cache.get("a", source.load))
        except OSError as exc:
            results.append(exc)

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(get)
        await trio.testing.wait_all_tasks_blocked()
        source.gate.set()
    return results


async def test_all_who_wait_share_one_load() -> None:
    source, cache = Source(ready=False), SingleFlight[str](TTL_S, 10)
    assert await get_many(cache, source, 20) == ["value 1"] * 20
    assert source.loads == 1


async def test_all_who_wait_share_the_error_and_it_is_not_kept() -> None:
    source, cache = Source(ready=False), SingleFlight[str](TTL_S, 10)
    source.error = OSError("out of order")
    errors = await get_many(cache, source, 5)
    assert [str(error) for error in errors] == ["out of order"] * 5
    # Its traceback belongs to the task that an exception object is raised in.
    assert len({id(error) for error in errors}) == 5
    assert source.loads == 1
    source.error = None
    assert await cache.get("a", source.load) == "value 2"


async def test_a_failed_refresh_does_not_bring_the_old_value_back(mock_clock: MockClock) -> None:
    source, cache = Source(), SingleFlight[str](TTL_S, 10)
    await cache.get("a", source.load)
    mock_clock.jump(TTL_S * 2)
    source.error = OSError("out of order")
    for _ in range(2):
        with pytest.raises(OSError, match="out of order"):
            await cache.get("a", source.load)


async def test_a_cancelled_load_is_taken_over_by_one_who_waits() -> None:
    source, cache = Source(ready=False), SingleFlight[str](TTL_S, 10)
    results: list[str] = []
    loading = trio.CancelScope()

    async def load_first() -> None:
        with loading:
            await cache.get("a", source.load)

    async def wait() -> None:
        results.append(await cache.get("a", source.load))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(load_first)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(wait)
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        loading.cancel()
        await trio.testing.wait_all_tasks_blocked()
        source.gate.set()
    assert loading.cancelled_caught
    assert results == ["value 2", "value 2"]
    assert source.loads == 2


async def test_one_who_waits_can_leave() -> None:
    source, cache = Source(ready=False), SingleFlight[str](TTL_S, 10)
    waiting = trio.CancelScope()

    async def wait() -> None:
        with waiting:
            await cache.get("a", source.load)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(cache.get, "a", source.load)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        waiting.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert waiting.cancelled_caught
        source.gate.set()
    assert await cache.get("a", source.load) == "value 1"


async def test_invalidate_forgets_a_value() -> None:
    source, cache = Source(), SingleFlight[str](TTL_S, 10)
    await cache.get("a", source.load)
    cache.invalidate("a")
    cache.invalidate("never seen")
    assert await cache.get("a", source.load) == "value 2"


async def test_a_load_that_began_before_invalidate_is_for_nobody() -> None:
    """Its answer may be from before the change, which is known when it comes to be used."""
    old, new, cache = Source(ready=False), Source(ready=False), SingleFlight[str](TTL_S, 10)
    results: list[tuple[str, str]] = []

    async def get(name: str, source: Source) -> None:
        results.append((name, await cache.get("a", source.load)))

    new.loads = 10
    async with trio.open_nursery() as nursery:
        nursery.start_soon(get, "before", old)
        await trio.testing.wait_all_tasks_blocked()
        cache.invalidate("a")
        nursery.start_soon(get, "after", new)
        await trio.testing.wait_all_tasks_blocked()
        old.gate.set()
        await trio.testing.wait_all_tasks_blocked()
        assert results == []
        nursery.start_soon(get, "after", new)
        await trio.testing.wait_all_tasks_blocked()
        new.gate.set()
    assert sorted(results) == [("after", "value 11")] * 2 + [("before", "value 11")]
    assert await cache.get("a", old.load) == "value 11"
    assert (old.loads, new.loads) == (1, 11)


async def test_an_overtaken_load_that_lands_last_does_not_replace_the_newer_value() -> None:
    old, new, cache = Source(ready=False), Source(), SingleFlight[str](TTL_S, 10)
    new.loads = 10
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cache.get, "a", old.load)
        await trio.testing.wait_all_tasks_blocked()
        cache.invalidate("a")
        assert await cache.get("a", new.load) == "value 11"
        old.gate.set()
    assert await cache.get("a", new.load) == "value 11"


async def test_the_oldest_values_make_room() -> None:
    source, cache = Source(), SingleFlight[str](TTL_S, 2)
    for key in "abc":
        await cache.get(key, source.load)
    assert await cache.get("c", source.load) == "value 3"
    assert await cache.get("b", source.load) == "value 2"
    assert await cache.get("a", source.load) == "value 4"


async def test_a_value_that_was_loaded_anew_is_among_the_youngest(mock_clock: MockClock) -> None:
    source, cache = Source(), SingleFlight[str](TTL_S, 2)
    await cache.get("a", source.load)
    mock_clock.jump(TTL_S / 2)
    await cache.get("b", source.load)
    mock_clock.jump(TTL_S * 0.6)
    assert await cache.get("a", source.load) == "value 3"
    await cache.get("c", source.load)
    assert await cache.get("a", source.load) == "value 3"


async def test_the_value_known_last_is_told_where_the_load_takes_too_long(
    autojump_clock: MockClock,
) -> None:
    source, lane = Source(), Lane()
    async with trio.open_nursery() as nursery:
        cache = SingleFlight[str](TTL_S, 10, nursery=nursery)
        assert await cache.get("a", source.load, lane) == "value 1"
        await trio.sleep(TTL_S * 2)
        source.gate = trio.Event()
        begun = trio.current_time()
        assert await cache.get("a", source.load, lane) == "value 1"
        assert 0.1 < trio.current_time() - begun < 0.5
        # That one is late is known: nobody waits as long again, for no key of the lane.
        begun = trio.current_time()
        cache.suppose("b", "listed")
        assert await cache.get("a", source.load, lane) == "value 1"
        assert await cache.get("b", source.load, lane) == "listed"
        assert trio.current_time() - begun < 0.05
        assert source.loads == 3
        # Who wants to be sure waits, and so does who asks for what is not known.
        with trio.move_on_after(5) as waiting:
            await cache.get("a", source.load)
        assert waiting.cancelled_caught
        with trio.move_on_after(5) as waiting:
            await cache.get("c", source.load, lane)
        assert waiting.cancelled_caught
        source.gate.set()
        await trio.testing.wait_all_tasks_blocked()
        # What was loaded meanwhile is too old already.
        assert await cache.get("a", source.load, lane) == "value 5"
        assert await cache.get("b", source.load, lane) == "value 6"
        assert lane.patience_s > 0.1


async def test_no_more_loads_are_begun_than_may_be_late(autojump_clock: MockClock) -> None:
    source, lane = Source(ready=False), Lane()
    async with trio.open_nursery() as nursery:
        cache = SingleFlight[str](TTL_S, 1000, nursery=nursery)
        for number in range(500):
            cache.suppose(number, "listed")
        begun = trio.current_time()
        for number in range(500):
            assert await cache.get(number, source.load, lane) == "listed"
        assert source.loads == 64
        assert trio.current_time() - begun < 1.1
        source.gate.set()


@pytest.mark.parametrize(("error", "kept"), [(TimedOut("late"), True), (Missing("gone"), False)])
async def test_what_a_load_ends_with_decides_whether_the_last_value_is_kept(
    autojump_clock: MockClock, error: OSError, kept: bool
) -> None:
    source, lane = Source(), Lane()
    async with trio.open_nursery() as nursery:
        cache = SingleFlight[str](TTL_S, 10, nursery=nursery)
        await cache.get("a", source.load, lane)
        await trio.sleep(TTL_S * 2)
        source.error = error
        if kept:
            assert await cache.get("a", source.load, lane) == "value 1"
        else:
            with pytest.raises(Missing):
                await cache.get("a", source.load, lane)
        assert (cache.last("a") is not None) == kept


async def test_values_are_kept_by_weight_and_use(autojump_clock: MockClock) -> None:
    async def load(text: str) -> str:
        return text

    cache = SingleFlight[str](TTL_S, 10, weigh=len)
    await cache.get("a", partial(load, "aaaa"))
    await cache.get("b", partial(load, "bbbb"))
    assert await cache.get("a", partial(load, "other")) == "aaaa"
    await cache.get("c", partial(load, "cccc"))
    assert (cache.last("a"), cache.last("b"), cache.last("c")) == ("aaaa", None, "cccc")
    # What nobody asks for goes, expired or not.
    await trio.sleep(601)
    await cache.get("d", partial(load, "d"))
    assert len(cache) == 1
