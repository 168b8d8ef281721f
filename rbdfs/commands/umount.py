"""``rbdfs umount``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rbdfs.commands.output import print_json
from rbdfs.keeper.unmount import unmount

if TYPE_CHECKING:
    from rbdfs.config.command_line import Request


def run(request: Request) -> int:
    """Unmount and wait; raise UserError where it stays mounted, or was not waited for."""
    done = unmount(request.operand, request.values["timeout"])
    if request.json:
        print_json(done)
    return 0
