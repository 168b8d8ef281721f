"""Rates: what meters say about the time between two looks at them, a second."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import TYPE_CHECKING

from rbdfs.model.meters import NOTHING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rbdfs.model.meters import ImageMeters, OperationMeters

_READ, _WRITE = "read", "write"


@dataclass(frozen=True, slots=True)
class OperationRates:
    """One operation, or several together.

    Attributes:
        iops: requests that were answered, with an error or without, a second.
        bytes_s: bytes of those without one, a second.
        p50_s, p99_s: how long one took, in seconds; None where none was answered.
    """

    iops: float = 0.0
    bytes_s: float = 0.0
    p50_s: float | None = None
    p99_s: float | None = None


@dataclass(frozen=True, slots=True)
class Rates:
    """What was done with one image, or with all of a mount.

    Attributes:
        both: reads and writes.
        other: everything else: fsync, discard, close, seek and so on.
        errors: requests of any kind that were answered with one, a second.
        in_flight: requests of any kind that are not answered now.
    """

    read: OperationRates = OperationRates()
    write: OperationRates = OperationRates()
    both: OperationRates = OperationRates()
    other: OperationRates = OperationRates()
    errors: float = 0.0
    in_flight: int = 0

    @property
    def iops(self) -> float:
        """Requests of any kind, a second."""
        return self.both.iops + self.other.iops


IDLE = Rates()


def rates(done: Iterable[ImageMeters], seconds: float) -> Rates:
    """Return the rates of what was *done* with some images in so many seconds, as since() has it.

    Raises ZeroDivisionError for no time at all.
    """
    images = list(done)
    read = _sum(image.operations[_READ] for image in images)
    write = _sum(image.operations[_WRITE] for image in images)
    other = _sum(
        meters
        for image in images
        for name, meters in image.operations.items()
        if name not in (_READ, _WRITE)
    )
    whole = read + write + other
    return Rates(
        read=_rates(read, seconds),
        write=_rates(write, seconds),
        both=_rates(read + write, seconds),
        other=_rates(other, seconds),
        errors=sum(whole.errors.values()) / seconds,
        in_flight=whole.in_flight,
    )


def _sum(meters: Iterable[OperationMeters]) -> OperationMeters:
    return reduce(add, (each for each in meters if each is not NOTHING), NOTHING)


def _rates(done: OperationMeters, seconds: float) -> OperationRates:
    return OperationRates(
        iops=done.count / seconds,
        bytes_s=done.bytes / seconds,
        p50_s=done.quantile(0.5),
        p99_s=done.quantile(0.99),
    )
