"""The keeper: holds the kernel connection, and starts a new server when one dies or is replaced.

It knows nothing of Ceph, and does so little that nothing of it should ever fail: the server does
the work, in a process of its own, and tells the keeper what a successor would need to know.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import selectors
import signal
import time
from typing import TYPE_CHECKING, Any

from rbdfs.errors import EXIT_FAILURE, UserError
from rbdfs.keeper.command_socket import CommandSocket
from rbdfs.keeper.daemonise import SignalSocket
from rbdfs.keeper.server_process import Estate, ServerProcess
from rbdfs.kernel import mountpoint, raw_requests

if TYPE_CHECKING:
    from collections.abc import Callable

    from rbdfs.config.mount_options import MountOptions
    from rbdfs.keeper.daemonise import Starter

log = logging.getLogger(__name__)

# Between the death of a server and the start of the next, in seconds, for deaths in a row. What
# kills a server at once will do so again: after the last one requests are refused instead.
_PAUSES_S = (0.0, 0.1, 0.5, 1.0, 2.0, 4.0, 8.0)
# A server that has served so long, in seconds, did not die of what its successor will do first.
_SETTLED_S = 1.0
# Between tries to start a server that says itself that it cannot.
_RETRY_S = 1.0
# Between looks at a server of which nothing is heard.
_LOOK_S = 1.0
# How long a server may take to end, in seconds, which gives itself 30; and after a second signal.
_END_S = 35.0
_LEAVE_S = 0.5


class Keeper:
    """One mount, for as long as it lives."""

    def __init__(self, options: MountOptions, arguments: list[str], starter: Starter) -> None:
        self._options = options
        self._starter = starter
        self._stack = contextlib.ExitStack()
        self._selector = self._stack.enter_context(selectors.DefaultSelector())
        self._estate = Estate(arguments, os.getcwd())
        self._server: ServerProcess | None = None
        self._commands = CommandSocket(options.mountpoint)
        self._exit_code: int | None = None
        # How the current server is doing.
        self._ready = False
        self._replacing = False
        self._failed = False
        self._started = self._ready_since = 0.0
        # How the mount is doing.
        self._was_ready = self._ending = self._refusing = False
        # What is to be done, and when, unless something happens before.
        self._due: tuple[float, Callable[[], None]] | None = None
        self._generation = 0
        self._deaths = 0
        self._last_fault = "none"

    def run(self) -> int:
        """Serve until the mount is over; return the exit code. Raises UserError at the start."""
        with self._stack:
            signals = self._stack.enter_context(SignalSocket(signal.SIGTERM, signal.SIGINT))
            self._selector.register(
                signals, selectors.EVENT_READ, lambda: self._on_signals(signals.receive())
            )
            # Before anything is mounted: it also keeps others from starting on the mount point.
            self._stack.enter_context(self._commands)
            self._selector.register(self._commands, selectors.EVENT_READ, self._hear_command)
            try:
                self._start_server(crashed=False)
                while self._exit_code is None:
                    self._wait()
            except UserError:
                self._end()
                raise
            self._end()
            return self._exit_code

    def _wait(self) -> None:
        """Wait for one thing to do, and do it."""
        due = _LOOK_S if self._due is None else self._due[0] - time.monotonic()
        ready = self._selector.select(min(_LOOK_S, max(0.0, due)))
        if ready:
            # One only: what it does may take others away.
            ready[0][0].data()
        elif self._server is not None and self._server.is_dead():
            self._on_gone()
        elif self._due is not None and time.monotonic() >= self._due[0]:
            action, self._due = self._due[1], None
            action()

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        self._due = (time.monotonic() + seconds, action)

    def _on_signals(self, received: list[signal.Signals]) -> None:
        for number in received:
            if self._ending:
                log.error("second signal: leaving at once")
            else:
                log.info("%s: ending the mount", number.name)
            if self._server is None:
                # Nobody is there to drain anything; without its mount the kernel ends the rest.
                self._exit_code = EXIT_FAILURE
            elif not self._ready:
                self._server.kill()
            else:
                # By a message: whoever signals all processes of a mount at once means one signal.
                self._server.send({"do": "end"})
                self._later(_LEAVE_S if self._ending else _END_S, self._server.kill)
            self._ending = True

    # The server's life.

    def _start_server(self, *, crashed: bool) -> None:
        try:
            self._server = ServerProcess(self._estate, crashed, not self._options.foreground)
        except OSError as exc:
            if not self._was_ready:
                raise UserError(f"cannot start the server: {exc}") from exc
            # No process, descriptor or memory left: that may pass.
            log.error("cannot start a server: %s", exc)
            self._later(_RETRY_S, self._try_again)
            return
        self._selector.register(self._server.control, selectors.EVENT_READ, self._hear_server)
        self._generation += 1
        self._started = time.monotonic()
        self._ready = self._replacing = self._failed = False

    def _hear_server(self) -> None:
        assert self._server is not None
        event = self._server.receive()
        if event is None:
            self._on_gone()
        else:
            getattr(self, f"_on_{event.pop('event')}")(**event)

    def _on_mount(self) -> None:
        assert self._server is not None
        try:
            self._estate.fuse = mountpoint.mount(self._options)
        except UserError as exc:
            self._server.send({"error": str(exc)})
        else:
            self._server.send({}, self._estate.fuse)

    def _on_left(self, **facts: Any) -> None:
        # What a server closes that makes way for another is still open for the kernel.
        if not self._replacing or "fenced" in facts:
            self._estate.learn(**facts)

    def _on_ready(self, init: str) -> None:
        self._ready = True
        self._ready_since = time.monotonic()
        self._estate.init = init
        if not self._was_ready:
            self._was_ready = True
            self._starter.ready()
        elapsed = time.monotonic() - self._started
        log.info("server %d is ready after %.2f s", self._generation, elapsed)
        self._commands.answer("restart", self._facts() | {"seconds": round(elapsed, 3)})

    def _on_failed(self, message: str, exit_code: int) -> None:
        if not self._was_ready:
            raise UserError(message, exit_code)
        self._failed = not self._ready
        # Once, and not with every try for as long as the cluster is away.
        if not self._last_fault.endswith(message):
            log.error("server %d failed: %s", self._generation, message)
        self._last_fault = f"server {self._generation} failed: {message}"

    def _on_replace_me(self) -> None:
        self._replacing = True
        self._ready = False

    def _on_ended(self, exit_code: int) -> None:
        self._exit_code = exit_code

    def _on_status(self, **status: Any) -> None:
        self._commands.answer("status", self._facts() | status)

    def _on_gone(self) -> None:
        """Decide what comes after a server that has ended, whatever the reason."""
        assert self._server is not None
        self._selector.unregister(self._server.control)
        code = self._server.wait(_END_S)
        self._server = self._due = None
        if self._exit_code is not None:
            return
        if not self._was_ready:
            cause = "interrupted" if self._ending else "the server ended unexpectedly"
            raise UserError(f"{cause} (exit code {code})")
        # One that has made way for another has closed everything.
        handed_over = self._replacing and code == 0
        if self._ending:
            self._exit_code = 0 if handed_over else EXIT_FAILURE
        elif handed_over:
            self._start_server(crashed=False)
        else:
            self._go_on_after(code)

    def _go_on_after(self, code: int) -> None:
        """Start another server when it is time, or give up."""
        if self._ready and time.monotonic() - self._ready_since > _SETTLED_S:
            self._deaths = 0
        self._ready = False
        if self._failed:
            # The cluster is away, most likely: requests wait, as on any block device.
            self._later(_RETRY_S, self._try_again)
            return
        self._last_fault = f"server {self._generation} ended with exit code {code}"
        log.error("%s", self._last_fault)
        if self._deaths < len(_PAUSES_S):
            self._later(_PAUSES_S[self._deaths], self._try_again)
            self._deaths += 1
        else:
            self._give_up()

    def _try_again(self) -> None:
        assert self._estate.fuse is not None
        if raw_requests.is_over(self._estate.fuse):
            log.error("the mount was taken away while no server was there")
            self._exit_code = EXIT_FAILURE
        else:
            self._start_server(crashed=True)

    # A mount without a server.

    def _give_up(self) -> None:
        assert self._estate.fuse is not None
        log.critical("giving up: requests fail with EIO, until the mount is ended or restarted")
        self._refusing = True
        self._selector.register(self._estate.fuse, selectors.EVENT_READ, self._refuse)
        # An older kernel leaves those waiting that the last server had read.
        with contextlib.suppress(OSError):
            raw_requests.resend_requests(self._estate.fuse)

    def _refuse(self) -> None:
        assert self._estate.fuse is not None
        try:
            released = raw_requests.refuse_request(self._estate.fuse)
        except OSError as exc:
            if exc.errno != errno.ENODEV:
                raise
            self._exit_code = EXIT_FAILURE
        else:
            self._estate.learn(released=released)

    # What the commands restart and status ask for.

    def _hear_command(self) -> None:
        command = self._commands.receive()
        if command in ("restart", "status") and self._ready and self._server is not None:
            self._server.send({"do": command})
        elif command == "status":
            self._commands.answer(command, self._facts())
        elif command == "restart":
            # If one is on its way already, its readiness is the answer.
            if self._refusing and self._estate.fuse is not None:
                self._selector.unregister(self._estate.fuse)
                self._refusing, self._deaths = False, 0
                self._start_server(crashed=True)
        elif command is not None:
            self._commands.answer(command, {"error": f"unknown command {command!a}"})

    def _facts(self) -> dict[str, Any]:
        state = "serving" if self._ready else "given up" if self._refusing else "no server"
        return {
            "mountpoint": self._options.mountpoint,
            "source": str(self._options.source),
            "state": state,
            "keeper": os.getpid(),
            "server": None if self._server is None else self._server.pid,
            "generation": self._generation,
            "last_fault": self._last_fault,
        }

    def _end(self) -> None:
        if self._estate.fuse is not None:
            try:
                mountpoint.detach(self._options.mountpoint)
            except OSError as exc:
                log.error("%a stays mounted, and dead: %s", self._options.mountpoint, exc)
                self._exit_code = EXIT_FAILURE
            os.close(self._estate.fuse)
        self._commands.close()  # Whoever starts anew need not wait for the server's end.
        if self._server is not None:
            self._server.wait(_END_S)
