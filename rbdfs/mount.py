"""The life of a mount: connect, mount, signal readiness, serve, drain, close."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pyfuse3
import trio

from rbdfs.aio import AioBridge
from rbdfs.catalog import Catalog
from rbdfs.cluster import Cluster
from rbdfs.datapath import connection
from rbdfs.errors import EXIT_FAILURE, UserError
from rbdfs.handles import HandleTable
from rbdfs.operations import Operations
from rbdfs.spec import parse_source
from rbdfs.tree import InodeTable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from rbdfs.options import MountOptions

log = logging.getLogger(__name__)

# Requests in work at once: a cluster that stands still must not keep ls from being read.
_MAX_TASKS = 4096
# After the first signal, how long requests in flight and flushes may take, in seconds.
_DRAIN_S = 30.0


def check_mountpoint(options: MountOptions) -> None:
    """Raise UserError where nothing can be mounted; clear away a mount whose server is dead."""
    path = options.mountpoint
    try:
        parse_source(options.source)
    except ValueError as exc:
        raise UserError(str(exc)) from exc
    try:
        status = os.stat(path)
    except OSError as exc:
        if exc.errno != errno.ENOTCONN:
            raise UserError(f"mount point {path!a}: {exc.strerror}") from exc
        connection.unmount(path, lazy=True)
        status = os.stat(path)
    if not stat.S_ISDIR(status.st_mode):
        raise UserError(f"mount point {path!a} is not a directory")
    if connection.is_mounted(path):
        raise UserError(f"mount point {path!a} is in use: something is mounted there")
    try:
        if not options.nonempty and any(Path(path).iterdir()):
            raise UserError(f"mount point {path!a} is not empty (-o nonempty allows it)")
    except OSError as exc:
        raise UserError(f"mount point {path!a}: {exc.strerror}") from exc


async def serve(options: MountOptions, ready: Callable[[], None]) -> int:
    """Mount and serve until the mount is gone or a signal ends it; return the exit code.

    *ready* is called once, when the mount answers. Raises UserError, with nothing mounted.
    """
    pool, namespace = parse_source(options.source)
    async with contextlib.AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(
            Cluster.connect(options.ceph, AioBridge(), options.connect_timeout_s)
        )
        catalog = await Catalog.open(cluster, pool, namespace)
        handles = await stack.enter_async_context(_closing(HandleTable(cluster)))
        operations = Operations(options, InodeTable(catalog.root), catalog, handles)
        await stack.enter_async_context(_kernel_connection(options, operations))
        return await _Serving(options.mountpoint, operations).run(ready)


@contextlib.asynccontextmanager
async def _closing(handles: HandleTable) -> AsyncIterator[HandleTable]:
    try:
        yield handles
    finally:
        with trio.CancelScope(shield=True):
            await handles.close()


@contextlib.asynccontextmanager
async def _kernel_connection(options: MountOptions, operations: Operations) -> AsyncIterator[None]:
    """Mount *operations*; at the end leave neither mount nor connection behind."""
    try:
        descriptor = await trio.to_thread.run_sync(
            lambda: connection.open_kernel(
                options.mountpoint,
                fsname=options.source,
                allow_other=options.allow_other,
                default_permissions=options.allow_other,
                read_only=options.read_only,
            )
        )
    except OSError as exc:
        raise UserError(f"cannot mount on {options.mountpoint!a}: {exc.strerror}") from exc
    try:
        # libfuse takes a descriptor for a mount point that is mounted already.
        pyfuse3.init(operations, f"/dev/fd/{descriptor}", {"fsname=rbdfs"})
        try:
            yield
        finally:
            pyfuse3.close(unmount=False)
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(_detach, options.mountpoint)


def _detach(mountpoint: str) -> None:
    if connection.is_mounted(mountpoint):
        connection.unmount(mountpoint, lazy=True)


def _give_up() -> None:
    log.error("not everything was written within %g s: the cluster does not answer", _DRAIN_S)
    os._exit(EXIT_FAILURE)


class _Serving:
    """Serving requests until the kernel or a signal says that it is enough."""

    def __init__(self, mountpoint: str, operations: Operations) -> None:
        self._mountpoint = mountpoint
        self._operations = operations
        self._exit_code = 0

    async def run(self, ready: Callable[[], None]) -> int:
        async with trio.open_nursery() as nursery:
            await nursery.start(self._watch_signals, nursery)
            nursery.start_soon(self._report_ready, ready)
            await pyfuse3.main(min_tasks=1, max_tasks=_MAX_TASKS)
            nursery.cancel_scope.cancel()
        log.info("unmounted %a", self._mountpoint)
        return self._exit_code

    async def _report_ready(self, ready: Callable[[], None]) -> None:
        await self._operations.ready.wait()
        log.info("mounted at %a", self._mountpoint)
        ready()

    async def _watch_signals(
        self, nursery: trio.Nursery, task_status: trio.TaskStatus[None]
    ) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for number in signals:
                if self._operations.closing:
                    log.error("second signal: leaving at once")
                    os._exit(EXIT_FAILURE)
                log.info("%s: ending the mount", signal.Signals(number).name)
                self._operations.closing = True
                nursery.start_soon(self._end)

    async def _end(self) -> None:
        """Unmount if nobody uses the mount; otherwise drain, and leave users to their errors."""
        # A thread, because what it guards against may keep Trio's from running.
        watchdog = threading.Timer(_DRAIN_S, _give_up)
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
