"""The trail of changes: one line in the log for each, with who asked for it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyfuse3 import RequestContext

log = logging.getLogger(__name__)


def leave(ctx: RequestContext, change: str) -> None:
    """Say that process and user of *ctx* have made *change*, which fits on a line."""
    # A request that the kernel makes by itself is nobody's.
    log.info("%s, asked for by uid %d, process %d", change, ctx.uid, ctx.pid)
