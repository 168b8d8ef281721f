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

from rbdfs.config.logging_setup import configure_logging, finish
from rbdfs.errors import EXIT_FAILURE, PASSING, ClusterAway, UserError
from rbdfs.keeper.estate import Estate
from rbdfs.server import lifecycle
from rbdfs.server.keeper_link import KeeperLink

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
    control = socket.socket(fileno=state["control"])
    with contextlib.closing(KeeperLink(control, state.get("version", 1))) as link:
        return finish(_serve(state, link))


def _serve(state: dict[str, Any], link: KeeperLink) -> int:
    try:
        estate = Estate.from_record(state)
        link.background = not estate.options.foreground
        configure_logging(estate.options)
        predecessor = None if estate.fuse is None else estate
        code = trio.run(lifecycle.serve, estate.options, link, predecessor)
    except UserError as exc:
        passing = isinstance(exc, ClusterAway)
        link.failed(str(exc), exc.exit_code, passing=passing)
        return exc.exit_code
    except Exception as exc:
        log.exception("the server ends")
        link.failed(f"{type(exc).__name__}: {exc}", EXIT_FAILURE, passing=_is_passing(exc))
        return EXIT_FAILURE
    if code is not None:
        link.tell("ended", exit_code=code)
    return code or 0


def _is_passing(exc: Exception) -> bool:
    """Tell whether *exc* is the cluster's or the host's silence, which another server may outlast.

    What a nursery raises is a group: of which nothing may be anything else.
    """
    if isinstance(exc, ExceptionGroup):
        return all(_is_passing(each) for each in exc.exceptions)
    return isinstance(exc, ClusterAway) or isinstance(exc, OSError) and exc.errno in PASSING


if __name__ == "__main__":
    sys.exit(main())
