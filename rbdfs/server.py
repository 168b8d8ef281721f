"""The server process: started by the keeper, which tells it what to serve, and from what state."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import sys

import trio

from rbdfs import mount
from rbdfs.arguments import parse_arguments
from rbdfs.errors import EXIT_FAILURE, UserError
from rbdfs.keeping import KeeperLink, Predecessor
from rbdfs.logs import configure_logging

log = logging.getLogger(__name__)


def main() -> int:
    """Serve as the keeper says in the file whose descriptor is the only argument."""
    with os.fdopen(int(sys.argv[1])) as memory:
        state = json.load(memory)
    link = KeeperLink(socket.socket(fileno=state["control"]))
    predecessor = None
    if state["fuse"] is not None:
        predecessor = Predecessor(
            state["fuse"], bytes.fromhex(state["init"]), state["predecessors"], state["handles"]
        )
    try:
        # Relative paths of the command line; a directory that is gone makes them errors by name.
        with contextlib.suppress(OSError):
            os.chdir(state["directory"])
        options = parse_arguments(state["arguments"])
        os.chdir("/")
        configure_logging(options)
        code = trio.run(mount.serve, options, link, predecessor)
    except UserError as exc:
        link.tell("failed", message=str(exc), exit_code=exc.exit_code)
        return exc.exit_code
    except Exception as exc:
        log.exception("the server ends")
        link.tell("failed", message=f"{type(exc).__name__}: {exc}", exit_code=EXIT_FAILURE)
        return EXIT_FAILURE
    if code is not None:
        link.tell("ended", exit_code=code)
    return code or 0


if __name__ == "__main__":
    sys.exit(main())
