"""The server process: started by the keeper, which tells it what to serve, and from what state."""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import signal
import socket
import sys
from typing import Any

import trio

from rbdfs.config.command_line import parse_arguments
from rbdfs.config.logging_setup import configure_logging
from rbdfs.errors import EXIT_FAILURE, UserError
from rbdfs.server import lifecycle
from rbdfs.server.keeper_link import KeeperLink, Predecessor

log = logging.getLogger(__name__)


# linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_SET_IO_FLUSHER = 57


def _be_io_flusher() -> None:
    """Have the kernel not wait for dirty pages when this process needs memory.

    They may be those of a file system on an image here, which this process has to write. For all
    threads that are started from now on. Without CAP_SYS_RESOURCE it is refused, and a host that
    is out of memory may stand still.
    """
    none = ctypes.c_ulong(0)
    ctypes.CDLL(None).prctl(_PR_SET_IO_FLUSHER, ctypes.c_ulong(1), none, none, none)


def _die_with(keeper: int) -> None:
    """End this process with the keeper, even where it hangs: the mount is dead then.

    Whoever mounts anew must not find its images in use.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != keeper:
        os._exit(EXIT_FAILURE)


def main() -> int:
    """Serve as the keeper says in the file whose descriptor is the only argument."""
    with os.fdopen(int(sys.argv[1])) as memory:
        state = json.load(memory)
    _die_with(state["keeper"])
    _be_io_flusher()
    with contextlib.closing(KeeperLink(socket.socket(fileno=state["control"]))) as link:
        return _serve(state, link)


def _serve(state: dict[str, Any], link: KeeperLink) -> int:
    predecessor = None
    if state["fuse"] is not None:
        predecessor = Predecessor(
            state["fuse"],
            bytes.fromhex(state["init"]),
            state["addresses"],
            state["fenced"],
            state["handles"],
            crashed=state["crashed"],
        )
    try:
        # Relative paths of the command line; a directory that is gone makes them errors by name.
        with contextlib.suppress(OSError):
            os.chdir(state["directory"])
        options = parse_arguments(state["arguments"])
        link.background = not options.foreground
        os.chdir("/")
        configure_logging(options)
        code = trio.run(lifecycle.serve, options, link, predecessor)
    except UserError as exc:
        link.tell("failed", message=str(exc), exit_code=exc.exit_code)
        return exc.exit_code
    except Exception as exc:
        log.exception("the server ends")
        # What is a fault of the cluster's is tried again; what nobody expected not for ever.
        if predecessor is None or isinstance(exc, OSError):
            link.tell("failed", message=f"{type(exc).__name__}: {exc}", exit_code=EXIT_FAILURE)
        return EXIT_FAILURE
    if code is not None:
        link.tell("ended", exit_code=code)
    return code or 0


if __name__ == "__main__":
    sys.exit(main())
