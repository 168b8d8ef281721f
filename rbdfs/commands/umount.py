"""``rbdfs umount``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rbdfs.commands.output import print_json
from rbdfs.errors import UserError
from rbdfs.keeper.unmount import unmount

if TYPE_CHECKING:
    from types import TracebackType

    from rbdfs.config.command_line import Request
    from rbdfs.keeper.meters_client import MetersReader

CLEARED = "\r\x1b[K"


class Progress:
    """One line on a terminal that tells what is left, and is gone at the end of the context."""

    def __init__(self) -> None:
        self._shown = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if self._shown:
            print(end=CLEARED, file=sys.stderr, flush=True)

    def show(self, seconds: float, meters: MetersReader | None) -> None:
        """Write the line anew."""
        text = f"unmounted, closing for {seconds:.0f} s{_left(meters)}"
        print(end=f"{CLEARED}{text}", file=sys.stderr, flush=True)
        self._shown = True


def _left(meters: MetersReader | None) -> str:
    if meters is None:
        return ""
    try:
        snapshot = meters.snapshot()
    except UserError:
        # They are of another version: that it goes on is still to be told.
        return ""
    requests = sum(
        operation.in_flight
        for image in snapshot.images.values()
        for operation in image.operations.values()
    )
    files = snapshot.figures.get("files_open", 0.0)
    return f": {files:.0f} open files, {requests} requests in flight"


def run(request: Request) -> int:
    """Unmount and wait; raise UserError where it stays mounted, or was not waited for."""
    with Progress() as progress:
        watch = progress.show if sys.stderr.isatty() else None
        done = unmount(request.operand, request.values["timeout"], watch)
    if request.json:
        print_json(done)
    return 0
