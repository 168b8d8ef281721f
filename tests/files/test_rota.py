"""Whose turn it is to be looked at, when many are open."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import pytest

from rbdfs.files.rota import Rota

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PERIOD_S = 0.9
# Turns are told at 16 moments of a period.
LONGEST_S = PERIOD_S + 0.001


def turns(everyone: Callable[[float], list[int]], until_s: float) -> dict[int, list[float]]:
    """When each had his turns, among those who are there at a time."""
    rota = Rota[int](PERIOD_S)
    now, found = 0.0, defaultdict(list)
    while now < until_s:
        now += rota.pause_s
        for each in rota.due(everyone(now), now):
            found[each].append(now)
    return found


def gaps(times: list[float]) -> Iterator[float]:
    return (second - first for first, second in itertools.pairwise(times))


@pytest.mark.parametrize("count", [1, 7, 8, 15, 16, 17, 100, 1000])
def test_each_has_his_turn_once_a_period(count: int) -> None:
    found = turns(lambda _now: list(range(count)), 20 * PERIOD_S)
    assert len(found) == count
    for times in found.values():
        assert max(gaps(times)) < LONGEST_S
        # The second turn of a newcomer brings him into his phase.
        assert min(gaps(times[1:])) > 0.9 * PERIOD_S
    moments = Counter(time for times in found.values() for time in times[1:])
    assert max(moments.values()) <= max(7, count / 7)


def test_few_wake_nobody_more_than_once_a_period() -> None:
    found = turns(lambda _now: [1, 2, 3], 20 * PERIOD_S)
    assert len({time for each in found.values() for time in each}) <= 21


def test_those_who_come_and_go_take_no_turn_from_those_who_stay() -> None:
    stay = list(range(30))
    passing = itertools.count(1000)
    found = turns(lambda _now: [next(passing) for _ in range(30)] + stay, 20 * PERIOD_S)
    assert max(max(gaps(found[each])) for each in stay) < LONGEST_S


@pytest.mark.parametrize(("first", "then"), [(100, 300), (3, 100), (100, 3), (9, 7)])
def test_nobody_is_late_when_there_are_more_or_fewer(first: int, then: int) -> None:
    change_s = 5.0
    found = turns(lambda now: list(range(first if now < change_s else then)), 10.0)
    for each, times in found.items():
        assert max(gaps(times)) < LONGEST_S
        assert times[0] < (0 if each < first else change_s) + LONGEST_S
