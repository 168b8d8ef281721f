"""``rbdfs restart``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rbdfs.commands.output import print_json
from rbdfs.keeper.command_client import ask

if TYPE_CHECKING:
    from rbdfs.config.command_line import Request


def run(request: Request) -> int:
    """Have the mount served anew, and print the same as status; raise UserError."""
    print_json(ask(request.operand, "restart"))
    return 0
