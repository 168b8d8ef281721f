"""Which operations are counted in the meters of the image that they are about, and as what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from rbdfs.kernel.extra_requests import FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE, FH_DIRECT
from rbdfs.model.meters_layout import Operation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rbdfs.fuse.mounted import Mounted

    Arguments = Mapping[str, Any]


class _Measure(NamedTuple):
    """How an operation is counted.

    Attributes:
        operation: as which one, from its arguments.
        transferred: how many bytes, from its arguments and what it has returned.
        fh: which of its arguments is the file handle.
    """

    operation: Callable[[Arguments], Operation]
    transferred: Callable[[Arguments, Any], int]
    fh: str = "fh"


def _fallocated(arguments: Arguments) -> Operation:
    if arguments["mode"] & FALLOC_FL_PUNCH_HOLE:
        return Operation.DISCARD
    if arguments["mode"] & FALLOC_FL_ZERO_RANGE:
        return Operation.WRITE_ZEROES
    return Operation.ALLOCATE


def _nothing(_arguments: Arguments, _answer: Any) -> int:
    return 0


def _as(operation: Operation) -> Callable[[Arguments], Operation]:
    return lambda _arguments: operation


_MEASURES = {
    "read": _Measure(_as(Operation.READ), lambda _, data: len(data)),
    "write": _Measure(_as(Operation.WRITE), lambda _, written: written),
    "write_durably": _Measure(_as(Operation.WRITE), lambda _, written: written),
    "fsync": _Measure(_as(Operation.FLUSH), _nothing),
    "flush": _Measure(_as(Operation.CLOSE), _nothing),
    "fallocate": _Measure(_fallocated, lambda arguments, _: arguments["length"]),
    "lseek": _Measure(_as(Operation.SEEK), _nothing),
    "copy_file_range": _Measure(_as(Operation.COPY), lambda _, copied: copied, fh="fh_out"),
}


def counted(mounted: Mounted, name: str, arguments: Arguments) -> Callable[[Any, int], None] | None:
    """Count an operation as in flight, if it is one for an open file.

    Returns what counts it as answered: with what it has returned, and 0 or an errno.
    """
    measure = _MEASURES.get(name)
    if measure is None:
        return None
    metering, operation = mounted.metering, measure.operation(arguments)
    number = _number(mounted, arguments[measure.fh])
    begun_ns = metering.begin(number, operation)

    def end(answer: Any, code: int) -> None:
        transferred = 0 if code else measure.transferred(arguments, answer)
        metering.end(number, operation, begun_ns, transferred, code)

    return end


def _number(mounted: Mounted, fh: int) -> int:
    try:
        return mounted.metering.number(mounted.handles[fh & ~FH_DIRECT].entry.image_spec)
    except OSError:
        # It is not taken over yet, or never will be.
        return 0
