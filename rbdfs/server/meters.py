"""The meters that a server counts in: the keeper's, which the next one goes on with."""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
from typing import TYPE_CHECKING, NamedTuple

from rbdfs.keeper.estate import new_meters
from rbdfs.model import meters_layout
from rbdfs.model.metering import Metering

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)


class SharedMeters(NamedTuple):
    """Memory of meters, for the data path by its descriptor, and for Python."""

    descriptor: int
    metering: Metering


@contextlib.contextmanager
def shared_meters(inherited: int | None) -> Iterator[SharedMeters]:
    """Yield the memory that the keeper has made, or where it has none, one of this server's own.

    A keeper has none that is older than meters, and one that others do not understand where it is
    of another version of them; a mount without a keeper has no other. Raises OSError.
    """
    descriptor = new_meters() if inherited is None else inherited
    try:
        metering = _mapped(descriptor)
    except ValueError as exc:
        log.warning("nobody can read what this server counts, until one mounts anew: %s", exc)
        os.close(descriptor)
        descriptor = new_meters()
        metering = _mapped(descriptor)
    try:
        yield SharedMeters(descriptor, metering)
    finally:
        os.close(descriptor)


def _mapped(descriptor: int) -> Metering:
    # It is never unmapped: whoever is late at the end of the server may count something still.
    if os.fstat(descriptor).st_size != meters_layout.BYTES:
        raise ValueError("the keeper's meters are of another size")
    return Metering(mmap.mmap(descriptor, meters_layout.BYTES))
