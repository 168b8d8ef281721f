"""Counts what the operations answer for open files, once each, in the meters of the image."""

from __future__ import annotations

import errno
import functools
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pyfuse3 import FUSEError

from rbdfs.kernel.extra_requests import FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE, FH_DIRECT
from rbdfs.model.meters_layout import Operation

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rbdfs.fuse.mounted import Mounted

    Method = TypeVar("Method", bound=Callable[..., Awaitable[Any]])


class _Measure(NamedTuple):
    """How a method is counted.

    Attributes:
        operation: as which one, from its arguments.
        transferred: how many bytes, from its arguments and what it has returned.
        fh: which of its arguments is the file handle.
    """

    operation: Callable[..., Operation]
    transferred: Callable[[tuple[Any, ...], Any], int]
    fh: int = 0


def _fallocated(_fh: int, mode: int, _off: int, _length: int) -> Operation:
    if mode & FALLOC_FL_PUNCH_HOLE:
        return Operation.DISCARD
    return Operation.WRITE_ZEROES if mode & FALLOC_FL_ZERO_RANGE else Operation.ALLOCATE


def _nothing(_arguments: tuple[Any, ...], _result: Any) -> int:
    return 0


def _as(operation: Operation) -> Callable[..., Operation]:
    return lambda *_arguments: operation


_MEASURES = {
    "read": _Measure(_as(Operation.READ), lambda _, data: len(data)),
    "write": _Measure(_as(Operation.WRITE), lambda _, written: written),
    "write_durably": _Measure(_as(Operation.WRITE), lambda _, written: written),
    "fsync": _Measure(_as(Operation.FLUSH), _nothing),
    "flush": _Measure(_as(Operation.CLOSE), _nothing),
    "fallocate": _Measure(_fallocated, lambda arguments, _: arguments[3]),
    "lseek": _Measure(_as(Operation.SEEK), _nothing),
    "copy_file_range": _Measure(_as(Operation.COPY), lambda _, copied: copied, fh=2),
}


def metered(method: Method) -> Method:
    """Count each call of an operation for open files that the data path does not carry out itself.

    *method* raises FUSEError alone, with the errno that is answered. It is the outermost one: what
    the operations call among themselves is not to come by here.
    """
    measure = _MEASURES.get(method.__name__)
    if measure is None:
        return method

    @functools.wraps(method)
    async def counted(self: Any, *arguments: Any) -> Any:
        mounted: Mounted = self.mounted
        number = _number(mounted, arguments[measure.fh])
        operation, count, error = measure.operation(*arguments), 0, errno.EINTR
        begun_ns = mounted.metering.begin(number, operation)
        try:
            answer = await method(self, *arguments)
            count, error = measure.transferred(arguments, answer), 0
        except FUSEError as exc:
            error = exc.errno
            raise
        finally:
            # What is cancelled has been answered with EINTR.
            mounted.metering.end(number, operation, begun_ns, count, error)
        return answer

    return counted  # type: ignore[return-value]


def _number(mounted: Mounted, fh: int) -> int:
    try:
        return mounted.metering.number(mounted.handles[fh & ~FH_DIRECT].entry.image_spec)
    except OSError:
        # It is not taken over yet, or never will be.
        return 0
