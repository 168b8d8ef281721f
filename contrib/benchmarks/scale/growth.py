"""Whether something grows: samples of a mount after each of many repetitions, and a verdict."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.scale.vitals import Process

# Of the repetitions: caches fill and threads start in the first fifth.
SETTLED = 0.2
# The median of so many samples stands for one: a thread that comes and goes says nothing.
WINDOW = 0.1
# Pools start a thread when so many are wanted at once, however late that is; a leak goes on.
SPARE_THREADS = 2.0
NAMES = {"rss_mib": "MiB", "fds": "descriptors", "threads": "threads"}


@dataclass(frozen=True)
class Growth:
    """One figure of one process, early and late.

    Attributes:
        figure: a field of Process.
        tolerance: what may be between the two.
    """

    process: str
    figure: str
    early: float
    late: float
    tolerance: float

    @property
    def grows(self) -> bool:
        return self.late - self.early > self.tolerance

    def json(self) -> dict[str, Any]:
        return asdict(self) | {"grows": self.grows}

    def __str__(self) -> str:
        figures = f"{self.early:g} -> {self.late:g} {NAMES[self.figure]}"
        if self.figure == "rss_mib":
            figures = f"{self.early:.1f} -> {self.late:.1f} {NAMES[self.figure]}"
        return f"{self.process} {figures}"


def growths(samples: Sequence[tuple[Process, Process]], tolerance_mib: float) -> list[Growth]:
    """All figures after a fifth of the repetitions and at their end; *samples* are one for each.

    Nothing may be open at the end that was not, nor threads be there but a pool's last ones.
    """
    settled = int(len(samples) * SETTLED)
    width = max(1, int(len(samples) * WINDOW))
    early, late = samples[settled : settled + width], samples[-width:]
    tolerances = {"rss_mib": tolerance_mib, "fds": 0.0, "threads": SPARE_THREADS}
    return [
        Growth(name, figure, _median(early, place, figure), _median(late, place, figure), tolerance)
        for place, name in enumerate(("server", "keeper"))
        for figure, tolerance in tolerances.items()
    ]


def _median(samples: Sequence[tuple[Process, Process]], place: int, figure: str) -> float:
    return float(statistics.median(getattr(sample[place], figure) for sample in samples))
