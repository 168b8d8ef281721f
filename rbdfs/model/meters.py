"""The meters of a mount: what was done for each image, in memory that outlives servers.

The keeper makes the memory (model/meters_layout.py), and hands it to each server. Counters in it
never fall while the mount lives; who has the descriptor reads them, also while the server hangs:

    snapshot = Snapshot.of(buffer)          # from its begin; it may end after the last used image
    snapshot.images["rbd/vm1"]              # -> ImageMeters; OTHERS: what has no place of its own
        .operations["read"]                 # -> OperationMeters, one for each Operation, by name
            .count .errors .bytes .in_flight .sum_s .buckets
            .quantile(0.99)                 # in seconds; None where nothing was answered
    snapshot.figures["restarts"]            # -> float: what has no image, see model/metering.py
    snapshot.since(earlier)                 # -> Snapshot: what was counted in between

Sans-io: it reads a buffer. keeper/meters_client.py gets one, by the mount point:

    with meters_at("/srv/rbd", "status") as reader:
        snapshot = reader.snapshot()
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import TYPE_CHECKING

from rbdfs.model import meters_layout as layout
from rbdfs.model.meters_layout import BOUNDS_S, BUCKETS, OTHERS, Operation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rbdfs.model.meters_layout import Buffer

OTHER_ERRORS = "other"
"""The name of errors of which there were too many kinds."""


@dataclass(frozen=True, slots=True)
class OperationMeters:
    """One operation of one image.

    Attributes:
        in_flight: how many are not answered.
        bytes: read, written, copied, zeroed or discarded by those without an error.
        sum_s: how long those that were answered took in all, in seconds.
        buckets: how many were answered, by how long that took: see BOUNDS_S; not cumulative.
        errors: how many were answered with an error, by its name, as "EIO", or OTHER_ERRORS.
    """

    in_flight: int = 0
    bytes: int = 0
    sum_s: float = 0.0
    buckets: tuple[int, ...] = (0,) * BUCKETS
    errors: dict[str, int] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many were answered, with an error or without."""
        return sum(self.buckets)

    def quantile(self, q: float) -> float | None:
        """Return the time in seconds within which the part *q* was answered; None if none was."""
        return quantile(self.buckets, q)

    def __add__(self, other: OperationMeters) -> OperationMeters:
        return OperationMeters(
            self.in_flight + other.in_flight,
            self.bytes + other.bytes,
            self.sum_s + other.sum_s,
            tuple(a + b for a, b in zip(self.buckets, other.buckets, strict=True)),
            {
                name: self.errors.get(name, 0) + other.errors.get(name, 0)
                for name in self.errors | other.errors
            },
        )

    def since(self, earlier: OperationMeters) -> OperationMeters:
        """Return what was counted since; in flight is what it is now."""
        if self is NOTHING and earlier is NOTHING:
            return NOTHING
        errors = {
            name: count - earlier.errors.get(name, 0)
            for name, count in self.errors.items()
            if count > earlier.errors.get(name, 0)
        }
        return OperationMeters(
            self.in_flight,
            self.bytes - earlier.bytes,
            self.sum_s - earlier.sum_s,
            tuple(a - b for a, b in zip(self.buckets, earlier.buckets, strict=True)),
            errors,
        )


NOTHING = OperationMeters()


@dataclass(frozen=True, slots=True)
class ImageMeters:
    """What was done for one image, by the name of the operation: each Operation in lower case."""

    operations: dict[str, OperationMeters]

    def since(self, earlier: ImageMeters) -> ImageMeters:
        """Return what was counted since."""
        return ImageMeters(
            {
                name: meters.since(earlier.operations[name])
                for name, meters in self.operations.items()
            }
        )


NO_IMAGE = ImageMeters({operation.name.lower(): NOTHING for operation in Operation})


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All meters of a mount at one time.

    Attributes:
        images: by spec (POOL[/NAMESPACE]/IMAGE, escaped as model.file_name has it, snapshots and
            partitions counted with their image), and OTHERS if there was anything.
        figures: what has no image, by name.
        answered_ns: when the cluster has answered last, by CLOCK_MONOTONIC; 0 for never.
        data: what it was made of, where that were bytes; else nothing.
    """

    images: dict[str, ImageMeters]
    figures: dict[str, float]
    answered_ns: int
    data: bytes = field(default=b"", repr=False, compare=False)

    @classmethod
    def of(cls, buffer: Buffer, earlier: Snapshot | None = None) -> Snapshot:
        """Return what *buffer* holds: the memory from its begin, whole or up to used_bytes().

        Where both are of bytes, the meters of images that did nothing are the same objects as in
        *earlier*: it takes 20 ms instead of 140 where 4,096 images have idled.
        Raises ValueError for what is no memory of meters, or of another version.
        """
        memory = memoryview(buffer).cast("B")
        used = layout.images_used(memory)
        if len(memory) < layout.IMAGES_OFFSET + used * layout.IMAGE_BYTES:
            raise ValueError(f"{len(memory)} bytes are cut short")
        data = buffer if isinstance(buffer, bytes) else b""
        images = dict(_images(memory, data, used, earlier))
        if images[OTHERS] == NO_IMAGE:
            del images[OTHERS]
        (answered_ns,) = struct.unpack_from("=Q", memory, layout.ANSWERED_OFFSET)
        return cls(images, dict(layout.figures_in(memory)), answered_ns, data)

    def since(self, earlier: Snapshot) -> Snapshot:
        """Return what was counted since *earlier*; figures are as they are now."""
        return replace(
            self,
            images={
                key: image.since(earlier.images.get(key, NO_IMAGE))
                for key, image in self.images.items()
            },
        )


def quantile(buckets: Sequence[int], q: float) -> float | None:
    """Return the time in seconds within which the part *q* of the requests in *buckets* came to be.

    Within a bucket it is interpolated; of the last one only the lower bound is known. None for no
    request.
    """
    total = sum(buckets)
    if total <= 0:
        return None
    wanted = q * total
    for i, below in enumerate(accumulate(buckets)):
        if below >= wanted and buckets[i] > 0:
            if i == len(BOUNDS_S):
                break
            lower = BOUNDS_S[i - 1] if i else 0.0
            part = (wanted - (below - buckets[i])) / buckets[i]
            return lower + (BOUNDS_S[i] - lower) * max(0.0, part)
    return BOUNDS_S[-1]


def _images(
    memory: memoryview, data: bytes, used: int, earlier: Snapshot | None
) -> Iterator[tuple[str, ImageMeters]]:
    before = b"" if earlier is None else earlier.data
    for number, key in enumerate(layout.keys_in(memory, used)):
        begin = layout.IMAGES_OFFSET + number * layout.IMAGE_BYTES
        place = slice(begin, begin + layout.IMAGE_BYTES)
        if earlier is not None and data[place] and data[place] == before[place]:
            yield key, earlier.images.get(key, NO_IMAGE)
            continue
        operations = {}
        for operation in Operation:
            native, python = (
                _meter(memory, layout.meter_offset(number, operation, writer))
                for writer in (layout.NATIVE, layout.PYTHON)
            )
            both = python if native is NOTHING else native
            if native is not NOTHING and python is not NOTHING:
                both = native + python
            operations[operation.name.lower()] = both
        yield key, ImageMeters(operations)


_METER = struct.Struct(f"={layout.FIRST_ERROR + 2 * layout.ERRORS}Q")
_UNUSED = bytes(_METER.size)


def _meter(memory: memoryview, offset: int) -> OperationMeters:
    data = bytes(memory[offset : offset + _METER.size])
    # Most are: an image has two of each, and few of the operations.
    if data == _UNUSED:
        return NOTHING
    words = _METER.unpack(data)
    return OperationMeters(
        # One that was reset under a request would be below zero.
        in_flight=words[layout.IN_FLIGHT] if words[layout.IN_FLIGHT] < 1 << 63 else 0,
        bytes=words[layout.TRANSFERRED],
        sum_s=words[layout.SUM_NS] / 1e9,
        buckets=words[layout.FIRST_BUCKET : layout.FIRST_ERROR],
        errors=_errors(words[layout.FIRST_ERROR :]),
    )


def _errors(words: tuple[int, ...]) -> dict[str, int]:
    errors: dict[str, int] = {}
    for number, count in zip(words[::2], words[1::2], strict=True):
        if count:
            name = errno.errorcode.get(number, str(number)) if number else OTHER_ERRORS
            errors[name] = errors.get(name, 0) + count
    return errors
