"""What `rbdfs top` shows: the load of each mount and image, and how it was in the last minute."""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rbdfs.model.meters import NO_IMAGE
from rbdfs.model.rates import IDLE, Rates, rates

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rbdfs.model.meters import ImageMeters, Snapshot

_MINUTE_S = 60.0


@dataclass(frozen=True, slots=True)
class Condition:
    """How a mount is doing, as its keeper and its server say.

    Attributes:
        state: as `rbdfs mounts` has it.
        restarts: how many servers have been replaced; None where nobody tells.
        last_fault: why, "" where it is not known.
        lag_ms: how long the server's main thread has let others wait of late, at most.
        waits_s: how long an image has waited for the cluster; 0.0 where none does.
        reason: why, "" where it is not known.
    """

    state: str
    restarts: int | None = None
    last_fault: str = ""
    lag_ms: float | None = None
    waits_s: float = 0.0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ImageLoad:
    """One image: its rates, and its requests a second in the last minute, the latest last."""

    mountpoint: str
    spec: str
    rates: Rates
    history: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class MountLoad:
    """One mount.

    Attributes:
        seconds: the time that the rates are of; 0.0 where there are none yet.
        answered_s: how long ago the cluster has answered last; None where it never has.
    """

    mountpoint: str
    source: str
    condition: Condition
    seconds: float = 0.0
    rates: Rates = IDLE
    answered_s: float | None = None
    images: Sequence[ImageLoad] = ()


@dataclass(frozen=True, slots=True)
class Order:
    """What images can be sorted by: the key to press, its name, and the figure, if it is one."""

    key: str
    name: str
    figure: Callable[[Rates], float] | None


ORDERS = (
    Order("i", "IOPS", lambda each: each.iops),
    Order("r", "read", lambda each: each.read.iops),
    Order("w", "write", lambda each: each.write.iops),
    Order("b", "bytes", lambda each: each.both.bytes_s),
    Order("l", "p99", lambda each: each.both.p99_s or 0.0),
    Order("d", "depth", lambda each: each.in_flight),
    Order("n", "name", None),
)
"""The highest comes first; of two that are equal, the one that waits, or did more of late."""


def first(images: Sequence[ImageLoad], order: Order, count: int) -> list[ImageLoad]:
    """Return the *count* images that come first in an order."""
    figure = order.figure

    def place(image: ImageLoad) -> tuple[tuple[float, ...], str, str]:
        rates = image.rates
        rank: tuple[float, ...] = ()
        if figure is not None:
            rank = (-figure(rates), -rates.in_flight, -sum(image.history))
        return rank, image.spec, image.mountpoint

    return heapq.nsmallest(count, images, place)


@dataclass(slots=True)
class Readings:
    """Looks at the meters of one mount, one each *interval_s* or so, and what they make."""

    mountpoint: str
    source: str
    interval_s: float
    _last: tuple[float, Snapshot] | None = None
    _histories: dict[str, deque[float]] = field(default_factory=dict)

    def load(self, at_s: float, snapshot: Snapshot, condition: Condition) -> MountLoad:
        """Return the load since the last look; this one was at *at_s* of time.monotonic()."""
        answered_s = max(at_s - snapshot.answered_ns / 1e9, 0.0) if snapshot.answered_ns else None
        last, self._last = self._last, (at_s, snapshot)
        if last is None or at_s <= last[0]:
            return MountLoad(self.mountpoint, self.source, condition, answered_s=answered_s)
        seconds = at_s - last[0]
        done: list[ImageMeters] = []
        images = []
        for spec, now in snapshot.images.items():
            before = last[1].images.get(spec, NO_IMAGE)
            each = IDLE
            if now is not before or _waits(now):
                done.append(now.since(before))
                each = rates(done[-1:], seconds)
            history = self._history(spec, each.iops)
            images.append(ImageLoad(self.mountpoint, spec, each, history))
        whole = rates(done, seconds)
        return MountLoad(
            self.mountpoint, self.source, condition, seconds, whole, answered_s, images
        )

    def _history(self, spec: str, iops: float) -> Sequence[float]:
        """Return the last minute of an image, with its latest figure."""
        history = self._histories.get(spec)
        if history is None:
            # Of thousands that do nothing, nothing is kept.
            if not iops:
                return ()
            history = deque(maxlen=max(math.ceil(_MINUTE_S / self.interval_s), 1))
            self._histories[spec] = history
        history.append(iops)
        if not any(history):
            del self._histories[spec]
        # What is shown while it is paused goes on no more.
        return tuple(history)


def _waits(image: ImageMeters) -> bool:
    return any(meters.in_flight for meters in image.operations.values())
