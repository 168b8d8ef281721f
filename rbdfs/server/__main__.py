"""The server process: started by the keeper, which tells it what to serve, and from what state."""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from functools import partial
from typing import Any, NoReturn

import trio

from rbdfs.config.logging_setup import configure_logging, leave
from rbdfs.errors import EXIT_FAILURE, PASSING, ClusterAway, UserError
from rbdfs.keeper.estate import Estate
from rbdfs.server import lifecycle
from rbdfs.server.keeper_link import KeeperLink
from rbdfs.server.meters import Inherited, shared_meters

log = logging.getLogger(__name__)


# How long a server without a keeper may take to close what is open, in seconds.
_ORPHANED_S = 10.0
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
    """End this process with the keeper, until it serves; then, see _leave_without_keeper()."""
    _on_parent_death(signal.SIGKILL)
    if os.getppid() != keeper:
        os._exit(EXIT_FAILURE)


def _on_parent_death(signum: signal.Signals) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signum)


def _leave_without_keeper(control: socket.socket) -> None:
    """From now on close what is open when the keeper is gone, and be gone soon in any case.

    The end of its socket ends the serving. One that is stopped is continued, and one whose Trio
    thread hangs is left to a thread that does nothing but wait for that.
    """
    keeper_gone = select.poll()
    # A number of its own, which nobody closes. POLLHUP is told of unasked.
    keeper_gone.register(os.dup(control.fileno()), 0)

    def leave() -> None:
        keeper_gone.poll()
        time.sleep(_ORPHANED_S)
        os._exit(EXIT_FAILURE)

    threading.Thread(target=leave, name="without-keeper", daemon=True).start()
    _on_parent_death(signal.SIGCONT)


def main() -> NoReturn:
    """Serve as the keeper says in the file whose descriptor is the only argument."""
    with os.fdopen(int(sys.argv[1])) as memory:
        state = json.load(memory)
    _die_with(state["keeper"])
    _be_io_flusher()
    control = socket.socket(fileno=state["control"])
    serving = partial(_leave_without_keeper, control)
    with contextlib.closing(KeeperLink(control, state.get("version", 1), serving)) as link:
        exit_code = _serve(state, link)
    # The interpreter's own end would take librbd from threads that are left in it.
    leave(exit_code)


def _serve(state: dict[str, Any], link: KeeperLink) -> int:
    try:
        estate = Estate.from_record(state)
        link.background = not estate.options.foreground
        configure_logging(estate.options)
        predecessor = None if estate.fuse is None else estate
        inherited = Inherited(estate.meters, estate.listener)
        with shared_meters(estate.options, inherited) as meters:
            code = trio.run(lifecycle.serve, estate.options, link, predecessor, meters)
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
    main()
