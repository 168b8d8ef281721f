"""``rbdfs status``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rbdfs.commands.metrics_text import metrics_text
from rbdfs.commands.output import print_json
from rbdfs.config.extras import require_metrics
from rbdfs.keeper.command_client import ask
from rbdfs.keeper.meters_client import meters_at

if TYPE_CHECKING:
    from rbdfs.config.command_line import Request


def run(request: Request) -> int:
    """Print what the keeper tells of the mount; raise UserError where it does not."""
    if request.values["prometheus"]:
        require_metrics("--prometheus")
        with meters_at(request.operand, "status") as reader:
            sys.stdout.buffer.write(metrics_text(reader))
    else:
        print_json(ask(request.operand, "status"))
    return 0
