"""The requests that the data path answers by itself, in the log of -d."""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import TYPE_CHECKING

import trio

from rbdfs.fuse.running_requests import tell

if TYPE_CHECKING:
    from rbdfs.datapath import native
    from rbdfs.model.entry import Entry

log = logging.getLogger(__name__)

# Opcodes of linux/fuse.h.
_NAMES = {15: "read", 16: "write", 20: "fsync", 25: "flush"}
_WITH_EXTENT = ("read", "write")
# Files that may have been closed by the time that their last requests are told.
_SPECS = 1 << 16


class Specs(OrderedDict[int, str]):
    """What files are open on, by their handles, which no two files share: the last ones."""

    def add(self, fh: int, entry: Entry) -> None:
        """Remember what a file is open on, if somebody is to be told."""
        if not log.isEnabledFor(logging.DEBUG):
            return
        self[fh] = entry.spec
        if len(self) > _SPECS:
            self.popitem(last=False)


async def tell_traced(mux: native.Mux, specs: Specs) -> None:
    """Log what *mux* answers, if it has a trace; tell_rest() is for what is left in the end."""
    while mux.trace_fileno() >= 0:
        await trio.lowlevel.wait_readable(mux.trace_fileno())
        _tell(mux, specs)


def tell_rest(mux: native.Mux, specs: Specs) -> None:
    """Log what *mux* has answered and was not told of yet."""
    while mux.trace_fileno() >= 0 and _tell(mux, specs):
        pass


def _tell(mux: native.Mux, specs: Specs) -> int:
    records, lost = mux.take_trace()
    for opcode, fh, offset, length, code, seconds in records:
        name, what = _NAMES[opcode], specs.get(fh, f"fh {fh}")
        tell(name, f"{what} {offset}~{length}" if name in _WITH_EXTENT else what, code, seconds)
    if lost:
        log.warning("%d requests more than there was time to tell of", lost)
    return len(records)
