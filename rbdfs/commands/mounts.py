"""``rbdfs mounts``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rbdfs.commands.output import print_json
from rbdfs.keeper.mount_list import mounts, table

if TYPE_CHECKING:
    from rbdfs.config.command_line import Request


def run(request: Request) -> int:
    """Print the mounts of rbdfs on this host."""
    found = mounts()
    if request.json:
        print_json(found)
    else:
        print(table(found), end="")
    return 0
