"""Many tasks that compute share the thread with who comes meanwhile."""

from __future__ import annotations

import trio
import trio.testing

from rbdfs.ceph.pace import Pace

PIECE_S = 0.004
TASKS = 64
PIECES = 20


class Clock:
    """Seconds, which pass only where a task takes them."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Turns(trio.abc.Instrument):
    """How long each turn takes by a clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._begun = 0.0
        self.lengths: list[float] = []

    def after_io_wait(self, timeout: float) -> None:
        self._begun = self._clock()

    def before_io_wait(self, timeout: float) -> None:
        self.lengths.append(self._clock() - self._begun)


async def test_no_turn_takes_long_however_many_compute() -> None:
    clock = Clock()
    turns = Turns(clock)
    done: list[int] = []

    async def compute(number: int) -> None:
        for _ in range(PIECES):
            await pace.share()
            clock.now += PIECE_S
        done.append(number)

    pace = Pace(clock)
    for instrument in (pace, turns):
        trio.lowlevel.add_instrument(instrument)
    async with trio.open_nursery() as nursery:
        for number in range(TASKS):
            nursery.start_soon(compute, number)
    trio.lowlevel.remove_instrument(turns)
    assert sorted(done) == list(range(TASKS))
    assert max(turns.lengths) < 0.01 + 1.5 * PIECE_S


async def test_who_has_time_goes_on_at_once() -> None:
    with trio.testing.assert_no_checkpoints():
        await Pace(Clock()).share()
