"""Serving requests until the kernel or a signal says that it is enough."""

from __future__ import annotations

import logging
import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import pyfuse3
import trio

from rbdfs import refusal
from rbdfs.datapath import connection
from rbdfs.errors import EXIT_FAILURE

if TYPE_CHECKING:
    from rbdfs.data_path import DataPath
    from rbdfs.freshness import Freshness
    from rbdfs.keeping import Keeping
    from rbdfs.operations import Operations

log = logging.getLogger(__name__)

# Requests in work at once: a cluster that stands still must not keep ls from being read.
_MAX_TASKS = 4096
# After the first signal, how long requests in flight and flushes may take, in seconds.
DRAIN_S = 30.0


def _give_up() -> None:
    log.error("not everything was written within %g s: the cluster does not answer", DRAIN_S)
    os._exit(EXIT_FAILURE)


class Serving:
    """One mount at work."""

    def __init__(
        self,
        operations: Operations,
        path: DataPath,
        keeping: Keeping,
        freshness: Freshness,
        *,
        resend: int | None,
    ) -> None:
        """*resend* is the kernel's descriptor where it is to repeat what it had asked before."""
        self._operations = operations
        self._path = path
        self._keeping = keeping
        self._freshness = freshness
        self._resend = resend
        self._mountpoint = operations.served.options.mountpoint
        self._replaced = False

    async def run(self) -> int | None:
        """Serve; return the exit code, or None where another server is to go on."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._watch_signals, nursery)
            nursery.start_soon(self._report_ready)
            nursery.start_soon(self._obey, nursery)
            nursery.start_soon(self._freshness.run)
            await pyfuse3.main(min_tasks=1, max_tasks=_MAX_TASKS)
            nursery.cancel_scope.cancel()
        if self._replaced:
            return None
        log.info("unmounted %a", self._mountpoint)
        return 0

    async def _report_ready(self) -> None:
        await self._operations.ready.wait()
        if self._resend is not None:
            await trio.to_thread.run_sync(refusal.resend_requests, self._resend)
        log.info("mounted at %a", self._mountpoint)
        self._keeping.ready(self._path.init_request())

    async def _obey(self, nursery: trio.Nursery) -> None:
        async for command in self._keeping.commands():
            if command == "status":
                self._keeping.tell("status", **self._status())
            elif command == "restart" and not self._replaced:
                nursery.start_soon(self._hand_over)

    async def _hand_over(self) -> None:
        """Drain, and let another server go on; what cannot be drained is taken from this one."""
        self._replaced = True
        log.info("making way for another server")
        try:
            await self._path.drain(DRAIN_S)
        except OSError as exc:
            log.error("not drained, so it has to be fenced: %s", exc)
            os._exit(EXIT_FAILURE)
        self._keeping.tell("replace_me")
        pyfuse3.terminate()

    def _status(self) -> dict[str, Any]:
        return {
            "files": [
                {
                    "spec": handle.entry.spec,
                    "writable": handle.writable,
                    "locked": handle.shared.image is not None and handle.shared.image.lock_held,
                    "error": None if handle.shared.error is None else str(handle.shared.error),
                }
                for handle in self._operations.served.handles
            ],
            "requests": self._path.stats(),
        }

    async def _watch_signals(
        self, nursery: trio.Nursery, task_status: trio.TaskStatus[None]
    ) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for number in signals:
                if self._operations.served.closing:
                    log.error("second signal: leaving at once")
                    os._exit(EXIT_FAILURE)
                log.info("%s: ending the mount", signal.Signals(number).name)
                self._operations.served.closing = True
                nursery.start_soon(self._end)

    async def _end(self) -> None:
        """Unmount if nobody uses the mount; otherwise drain, and leave users to their errors."""
        # A thread, because what it guards against may keep Trio's from running.
        watchdog = threading.Timer(DRAIN_S, _give_up)
        watchdog.daemon = True
        watchdog.start()
        await trio.to_thread.run_sync(self._unmount, abandon_on_cancel=True)
        pyfuse3.terminate()

    def _unmount(self) -> None:
        try:
            connection.unmount(self._mountpoint, lazy=False)
        except OSError as exc:
            log.info("%a is busy (%s): detaching it", self._mountpoint, exc.strerror)
            # What mmap made dirty is written while requests are still answered.
            pyfuse3.syncfs(self._mountpoint)
