"""Serving, and how it ends: umount, signals and their 30 seconds, and the hand-over to a server."""

from __future__ import annotations

import itertools
import logging
import signal
import threading
from typing import TYPE_CHECKING, Any

import pyfuse3
import trio

from rbdfs.ceph.pool_threads import in_own_thread
from rbdfs.config.logging_setup import leave
from rbdfs.errors import EXIT_FAILURE
from rbdfs.kernel import mountpoint
from rbdfs.server.garbage import collected_in_parts
from rbdfs.server.lag import Lag
from rbdfs.server.status import files_report
from rbdfs.server.task_tree import task_tree
from rbdfs.server.waiting import Waiting

if TYPE_CHECKING:
    from collections.abc import Callable

    from rbdfs.files.data_path import DataPath
    from rbdfs.files.freshness import Freshness
    from rbdfs.fuse.operations import Operations
    from rbdfs.kernel.mount import Mount
    from rbdfs.server.keeper_link import Link
    from rbdfs.server.waiting import Trouble

log = logging.getLogger(__name__)

# Requests in work at once: as many as there are callers. Thousands may wait for a pool that stands
# still, and must not keep those of other pools from being read.
_MAX_TASKS = 1 << 20
# After the first signal, how long requests in flight and flushes may take, in seconds.
DRAIN_S = 30.0
# Of the tree of tasks, in characters, that a message may have: each may become six bytes.
_TASKS_ROOM = 60_000
# A server that has served so long, in seconds, will not die of what it was sent again at the start.
_PROVEN_S = 10.0


def _give_up(files: list[str]) -> None:
    log.error(
        "the cluster does not answer: leaving after %g s, with these files not flushed: %s",
        DRAIN_S,
        ", ".join(files) or "none",
    )
    leave(EXIT_FAILURE)


def _note_that_files_wait(files: list[str]) -> None:
    log.warning(
        "unmounted, and the cluster does not answer: what was open is not closed yet (%s); a new "
        "mount may be made, SIGTERM ends this one",
        ", ".join(files) or "nothing that was written",
    )


def _after(seconds: float, action: Callable[[Any], None], argument: object) -> None:
    """Call *action* then, if the process is still there."""
    # A thread, because what it guards against may keep Trio's from running.
    watchdog = threading.Timer(seconds, action, [argument])
    watchdog.daemon = True
    watchdog.start()


def _leave() -> None:
    log.error("second signal: leaving at once")
    leave(EXIT_FAILURE)


class Serving:
    """One mount at work."""

    def __init__(
        self,
        operations: Operations,
        path: DataPath,
        keeping: Link,
        freshness: Freshness,
        mount: Mount,
        trouble: Trouble,
    ) -> None:
        self._operations = operations
        self._path = path
        self._keeping = keeping
        self._freshness = freshness
        self._mount = mount
        self._replaced = self._orphaned = self._over = False
        self._signals = itertools.count(1)
        self._told = itertools.count(1)
        self._token = trio.lowlevel.current_trio_token()
        self._lag = Lag(operations.mounted.metering)
        self._waiting = Waiting(operations, path, freshness, trouble)

    async def run(self) -> int | None:
        """Serve; return the exit code, or None where another server is to go on."""
        trio.lowlevel.add_instrument(self._lag)
        try:
            with collected_in_parts():
                await self._serve()
        except BaseException:
            # What is under way is waited for on the way out, and meanwhile nobody serves the mount.
            _after(DRAIN_S, self._be_fenced, "it has failed, and the cluster does not answer")
            raise
        finally:
            # A signal that comes while files are being closed finds no nursery any more.
            self._over = True
        if self._orphaned:
            return EXIT_FAILURE
        if self._replaced:
            return None
        log.info("unmounted %a", self._mount.path)
        if not self._operations.mounted.closing:
            _after(DRAIN_S, _note_that_files_wait, self._written_files())
        return 0

    async def _serve(self) -> None:
        async with trio.open_nursery() as nursery:
            self._watch_signals(nursery)
            nursery.start_soon(self._report_ready)
            nursery.start_soon(self._acquit)
            nursery.start_soon(self._obey, nursery)
            nursery.start_soon(self._look_after_files)
            await pyfuse3.main(min_tasks=1, max_tasks=_MAX_TASKS)
            nursery.cancel_scope.cancel()

    def _written_files(self) -> list[str]:
        return [file.entry.spec for file in self._operations.mounted.handles if file.writable]

    async def _look_after_files(self) -> None:
        # The kernel cannot be told to drop pages before the connection is open.
        await self._operations.ready.wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._freshness.run)
            nursery.start_soon(self._waiting.run)

    async def _acquit(self) -> None:
        """Clear what was under way when servers ended, once this one has lived with it."""
        await self._operations.ready.wait()
        await trio.sleep(_PROVEN_S)
        self._path.acquit()
        # What the kernel sends again comes before everything else.
        self._operations.mounted.requests.forget_left()

    async def _report_ready(self) -> None:
        await self._operations.ready.wait()
        log.info("mounted at %a", self._mount.path)
        self._keeping.ready(self._path.init_request())
        # The kernel may not have read the answer to INIT yet, and that can only lower it. Asking
        # the mount would be sure, but whoever kills this server then finds the mount busy.
        for pause_s in (0.05, 0.5):
            await trio.sleep(pause_s)
            await in_own_thread(mountpoint.raise_read_ahead, self._mount)

    async def _obey(self, nursery: trio.Nursery) -> None:
        async for command in self._keeping.commands():
            if command == "status":
                self._keeping.tell("status", **self._status())
                nursery.start_soon(self._keeping.delivered)
            elif command == "debug":
                nursery.start_soon(self._tell_debug)
            elif command == "end":
                self._ask_to_end(next(self._told), nursery)
            elif command == "restart" and not self._replaced:
                nursery.start_soon(self._hand_over)
        # The mount ends with the keeper's descriptor and this one's; whoever mounts anew must not
        # find the images in use.
        log.critical("the keeper is gone: closing what is open, the mount is dead")
        self._orphaned = True
        pyfuse3.terminate()

    async def _hand_over(self) -> None:
        """Drain, and let another server go on; what cannot be drained is taken from this one."""
        self._replaced = True
        log.info("making way for another server")
        # It guards the closing of images too, which the cluster may hold up.
        mounted = self._operations.mounted
        if mounted.handles.relocations.quiescing and mounted.options.cache in (
            "none",
            "writethrough",
        ):
            # They would keep the requests to all other files waiting as well.
            self._be_fenced("requests to an image that is being moved wait for its copy")
        _after(DRAIN_S, self._be_fenced, f"no end within {DRAIN_S:g} s")
        # What the kernel drops may have to be written first: while its requests are still read.
        await self._freshness.quiesce()
        await mounted.pages.quiesce()
        try:
            await self._path.drain(DRAIN_S)
            # Closing flushes too, but has nobody to tell where that fails.
            for shared in mounted.handles.images():
                # One whose image is still being opened has written nothing here.
                if shared.writers and shared.error is None and shared.image is not None:
                    await shared.image.flush()
        except OSError as exc:
            self._be_fenced(str(exc))
        # From then on the keeper does not hear which of them are closed already, should this fail.
        self._keeping.giving_up([self._path.opener.address])
        self._keeping.tell("replace_me")
        await self._keeping.delivered()
        pyfuse3.terminate()

    def _be_fenced(self, reason: str) -> None:
        log.error("not drained, so it has to be fenced: %s", reason)
        # No request is to blame for this.
        self._path.acquit()
        leave(EXIT_FAILURE)

    async def _tell_debug(self) -> None:
        health = await self._waiting.health(self._operations.mounted.options.source.pool or "")
        self._keeping.tell("debug", tasks=task_tree(_TASKS_ROOM), health=health)
        await self._keeping.delivered()

    def _status(self) -> dict[str, Any]:
        handles = self._operations.mounted.handles
        return {
            "open_files": len(handles),
            "files": files_report(handles, self._freshness),
            "requests": self._path.stats(),
            "lag": self._lag.report(),
            "moves": [] if (moves := self._operations.mounted.moves) is None else moves.report(),
        } | self._waiting.report()

    def _watch_signals(self, nursery: trio.Nursery) -> None:
        """End the mount at the first signal, and the process at the second.

        The second may come when the nursery is gone and files are being closed.
        """

        def on_signal(number: int, _frame: object) -> None:
            count = next(self._signals)
            if count > 1:
                _leave()
            log.info("%s: ending the mount", signal.Signals(number).name)
            self._token.run_sync_soon(self._ask_to_end, count, nursery)

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, on_signal)
        # A terminal that is closed says nothing about the mount.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _ask_to_end(self, count: int, nursery: trio.Nursery) -> None:
        # A service manager signals the keeper too, which asks once more: that counts by itself.
        if count > 1:
            _leave()
        if self._operations.mounted.closing:
            return
        self._operations.mounted.closing = True
        _after(DRAIN_S, _give_up, self._written_files())
        # What is unmounted is closing its files already.
        if not self._over:
            nursery.start_soon(self._end)

    async def _end(self) -> None:
        """Unmount if nobody uses the mount; otherwise write back what is dirty.

        What is busy, lifecycle detaches, and its users are left to their errors.
        """
        await in_own_thread(self._unmount, abandon_on_cancel=True)
        pyfuse3.terminate()

    def _unmount(self) -> None:
        device = self._operations.mounted.pages.device
        try:
            self._mount.unmount(device)
        except OSError as exc:
            log.info("%a is busy (%s): it will be detached", self._mount.path, exc.strerror)
            # What mmap made dirty is written while requests are still answered.
            if (path := self._mount.where(device)) is not None:
                mountpoint.sync(path)
