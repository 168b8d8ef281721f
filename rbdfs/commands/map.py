"""``rbdfs map``: which parts of a file have data."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
from typing import TYPE_CHECKING

from rbdfs.commands.drawing import Canvas
from rbdfs.commands.extents import extents
from rbdfs.commands.mounted_file import mount_of
from rbdfs.commands.output import exact_size, short_size
from rbdfs.errors import EXIT_USAGE, UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from rbdfs.commands.extents import Extent
    from rbdfs.config.command_line import Request

_KINDS = {True: "data", False: "hole"}


def run(request: Request) -> int:
    """Print the extents of a file as they are found; raise UserError."""
    if request.json and request.values["draw"]:
        raise UserError("--json and --draw: one of them", EXIT_USAGE)
    path = request.operand
    with _opened(path) as descriptor:
        size = os.fstat(descriptor).st_size
        found = extents(descriptor, size)
        if request.json:
            pieces = _json(found)
        elif request.values["draw"]:
            pieces = Canvas.of(size, shutil.get_terminal_size().columns).lines(found)
        else:
            pieces = _table(found, size)
        for piece in pieces:
            print(piece)
    return 0


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    """Open a file of a mount for reading; raise UserError for whatever goes wrong with it."""
    mount_of(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise UserError(f"{path!a} is no regular file")
            yield descriptor
        finally:
            os.close(descriptor)
    except OSError as exc:
        raise UserError(f"{path!a}: {exc.strerror}") from exc


def _json(found: Iterable[Extent]) -> Iterator[str]:
    """Yield the lines of what `qemu-img map --output=json` has for a raw image (QEMU 7.2).

    Later versions have ``compressed`` as well, which a raw image never is.
    """
    last = None
    for extent in found:
        if last is not None:
            yield f"{last},"
        last = ("[" if last is None else "") + _as_qemu(extent)
    # An empty file has one extent there.
    empty = {"start": 0, "length": 0, "depth": 0, "present": False, "zero": False, "data": False}
    yield f"{last or f'[{_spaced(empty)}'}]"


def _as_qemu(extent: Extent) -> str:
    return _spaced(
        {
            "start": extent.start,
            "length": extent.length,
            "depth": 0,
            "present": True,
            "zero": not extent.data,
            "data": extent.data,
            "offset": extent.start,
        }
    )


def _spaced(record: Mapping[str, object]) -> str:
    return "{ " + json.dumps(record).removeprefix("{")


def _table(found: Iterable[Extent], size: int) -> Iterator[str]:
    width = max(len(str(size)), len("LENGTH"))
    yield f"{'START':>{width}}  {'LENGTH':>{width}}  {'':>10}  KIND"
    data = count = 0
    for extent in found:
        human = short_size(extent.length)
        kind = _KINDS[extent.data]
        yield f"{extent.start:>{width}}  {extent.length:>{width}}  {human:>10}  {kind}"
        if extent.data:
            data, count = data + extent.length, count + 1
    yield f"{exact_size(data)} of data in {count} of these, of {exact_size(size)}"
