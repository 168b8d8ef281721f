"""``rbdfs status``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rbdfs.commands.output import print_json
from rbdfs.keeper.command_client import ask

if TYPE_CHECKING:
    from rbdfs.config.command_line import Request


def run(request: Request) -> int:
    """Print what the keeper tells of the mount; raise UserError where it does not."""
    print_json(ask(request.operand, "status"))
    return 0
