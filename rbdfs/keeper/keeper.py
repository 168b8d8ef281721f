"""The keeper: holds the kernel connection, and starts a new server when one dies or is replaced.

It knows nothing of Ceph, and does so little that nothing of it should ever fail: the server does
the work, in a process of its own, and tells the keeper what a successor would need to know.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from rbdfs.errors import EXIT_FAILURE, PASSING, UserError
from rbdfs.keeper.command_socket import CommandSocket
from rbdfs.keeper.daemonise import SignalSocket
from rbdfs.keeper.endurance import Endurance
from rbdfs.keeper.estate import Estate, new_ledger
from rbdfs.keeper.loop import Loop
from rbdfs.keeper.messages import Listener
from rbdfs.keeper.metrics import Metrics
from rbdfs.keeper.refusal import Refusal
from rbdfs.keeper.remains import Remains
from rbdfs.keeper.server_process import ServerProcess, end_of
from rbdfs.kernel import mountpoint, raw_requests

if TYPE_CHECKING:
    from rbdfs.config.mount_options import MountOptions
    from rbdfs.keeper.daemonise import Starter

log = logging.getLogger(__name__)

# How long a server may take to end, in seconds, which gives itself 30; and after a second signal.
_END_S = 35.0
_LEAVE_S = 0.5
# Before another try to start a server, in seconds, after a mishap of the keeper's own.
_RETRY_S = 1.0


class Keeper:
    """One mount, for as long as it lives."""

    def __init__(self, options: MountOptions, starter: Starter) -> None:
        self._options = options
        self._starter = starter
        self._loop, self._metrics = Loop(), Metrics(options)
        meters, listener = self._metrics.memory, self._metrics.listener
        self._estate = Estate(options, ledger=new_ledger(), meters=meters, listener=listener)
        self._server: ServerProcess | None = None
        self._remains = Remains(options.mountpoint)
        self._commands = CommandSocket()
        self._exit_code: int | None = None
        # How the current server is doing.
        self._ready = False
        self._failed: str | None = None
        self._passing = False
        self._started = self._ready_since = 0.0
        self._was_ready = self._ending = False
        self._generation = 0
        self._endurance = Endurance()
        over = partial(self._on_ended, EXIT_FAILURE)
        self._refusal = Refusal(self._loop.selector, self._estate, over)
        self._last_fault = "none"
        self._listener = Listener(
            mount=self._on_mount,
            left=self._on_left,
            remember=self._estate.remember,
            forget=self._estate.forget,
            ready=self._on_ready,
            failed=self._on_failed,
            replace_me=self._on_replace_me,
            ended=self._on_ended,
            status=partial(self._relay, "status"),
            debug=partial(self._relay, "debug"),
        )

    def run(self) -> int:
        """Serve until the mount is over; return the exit code. Raises UserError at the start."""
        with self._loop:
            signals = self._loop.enter_context(SignalSocket(signal.SIGTERM, signal.SIGINT))
            self._loop.watch(signals, lambda: self._on_signals(signals.receive()))
            self._loop.enter_context(self._commands)
            self._loop.enter_context(self._metrics)
            self._loop.watch(self._commands, self._hear_command)
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
        self._commands.drop_silent()
        if self._loop.wait(self._look) or self._server is not None or self._refusal.active:
            return
        if self._loop.idle and self._was_ready and self._exit_code is None:
            # It was the start of a server that failed.
            self._loop.later(_RETRY_S, self._try_again)

    def _look(self) -> None:
        if self._server is not None and self._server.is_dead():
            self._on_gone()

    def _on_signals(self, received: list[signal.Signals]) -> None:
        for number in received:
            if self._ending and self._was_ready:
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
                self._loop.later(_LEAVE_S if self._ending else _END_S, self._server.kill)
            self._ending = True

    # The server's life.

    def _start_server(self, *, crashed: bool) -> None:
        self._estate.crashed, self._estate.sealed = crashed, False
        self._ready = self._passing = False
        self._failed = None
        self._started = self._ready_since = time.monotonic()
        try:
            self._server = ServerProcess(self._estate, quiet=not self._options.foreground)
        except OSError as exc:
            if not self._was_ready:
                raise UserError(f"cannot start the server: {exc}") from exc
            self._note_fault(f"cannot start a server: {exc}")
            # No process, descriptor or memory left: that may pass.
            self._go_on(passing=exc.errno in PASSING)
            return
        self._loop.watch(self._server.control, self._hear_server)
        self._generation += 1

    def _hear_server(self) -> None:
        assert self._server is not None
        message = self._server.receive()
        if message is None:
            self._on_gone()
        else:
            self._listener.hear(message)

    def _on_mount(self) -> None:
        assert self._server is not None
        try:
            self._estate.fuse, self._estate.mount = mountpoint.mount(self._options)
        except UserError as exc:
            self._server.send({"error": str(exc)})
        else:
            self._commands.listen(self._estate.mount.device)
            self._remains.keep(self._estate.mount.device, self._estate.addresses)
            self._server.send({"mount": self._estate.mount.record()}, self._estate.fuse)

    def _on_left(self, addresses: list[str] | None = None, fenced: list[str] | None = None) -> None:
        self._estate.learn(addresses, fenced)
        self._remains.update(self._estate.addresses)

    def _on_ready(self, init: str) -> None:
        self._ready = True
        self._ready_since = time.monotonic()
        self._estate.init = bytes.fromhex(init)
        elapsed = time.monotonic() - self._started
        log.info("server %d is ready after %.2f s", self._generation, elapsed)
        if not self._was_ready:
            self._was_ready = True
            self._starter.ready()
        self._commands.answer("restart", self._facts() | {"seconds": round(elapsed, 3)})

    def _on_failed(self, message: str, exit_code: int, passing: bool = True) -> None:
        """Take in why a server ends; one of version 1 spoke of nothing but what passes."""
        if not self._was_ready:
            raise UserError(message, exit_code)
        self._failed, self._passing = message, passing and not self._ready
        self._note_fault(f"server {self._generation} failed: {message}", message)

    def _note_fault(self, fault: str, message: str = "") -> None:
        # In the log once, and not with every try for as long as the cluster is away.
        if not self._last_fault.endswith(message or fault):
            log.error("%s", fault)
        self._last_fault = fault

    def _on_replace_me(self) -> None:
        self._estate.sealed = True
        self._ready = False

    def _on_ended(self, exit_code: int) -> None:
        self._exit_code = exit_code

    def _relay(self, command: str, **facts: Any) -> None:
        self._commands.answer(command, self._facts() | facts)

    def _on_gone(self) -> None:
        """Decide what comes after a server that has ended, whatever the reason."""
        assert self._server is not None
        self._loop.selector.unregister(self._server.control)
        code = self._server.wait(_END_S)
        self._server = None
        self._loop.not_later()
        if not self._passing:
            # A server that could not serve has died of no request.
            self._estate.killed = code == -signal.SIGKILL
        # It may have been asked for more than it has said.
        self._commands.answer("status", self._facts() | {"state": "no server"})
        if self._exit_code is not None:
            return
        if not self._was_ready:
            cause = "interrupted" if self._ending else "the server ended unexpectedly"
            raise UserError(f"{cause} (exit code {code})")
        # One that has made way for another has closed everything.
        handed_over = self._estate.sealed and code == 0
        if self._ending:
            self._exit_code = 0 if handed_over else EXIT_FAILURE
        elif handed_over:
            self._start_server(crashed=False)
        else:
            if self._failed is None:
                self._note_fault(f"server {self._generation} {end_of(code)}")
            self._go_on(passing=self._passing)

    def _go_on(self, *, passing: bool) -> None:
        """Start another server when it is time, or give up."""
        served_s = time.monotonic() - self._ready_since if self._ready else 0.0
        self._ready = False
        pause_s = self._endurance.pause_s(served_s, passing=passing)
        if pause_s is None:
            self._give_up()
        else:
            self._loop.later(pause_s, self._try_again)

    def _try_again(self) -> None:
        assert self._estate.fuse is not None
        if raw_requests.is_over(self._estate.fuse):
            log.error("the mount was taken away while no server was there")
            self._exit_code = EXIT_FAILURE
        else:
            self._start_server(crashed=True)

    def _give_up(self) -> None:
        log.critical("giving up: requests fail with EIO, until the mount is ended or restarted")
        self._refusal.begin()
        self._commands.answer("restart", {"error": f"given up: {self._last_fault}"})

    def _hear_command(self) -> None:
        command = self._commands.receive()
        if command in ("restart", "status", "debug") and self._ready and self._server is not None:
            self._server.send({"do": command})
        elif command in ("options", "status"):
            told = {"options": self._options.record()} if command == "options" else {}
            self._commands.answer(command, self._facts() | told)
        elif command == "metrics":
            self._commands.give(command, self._facts(), self._metrics.memory)
        elif command == "debug":
            self._commands.answer(command, {"error": "there is no server"})
        elif command == "restart" and self._refusal.active:
            self._refusal.end()
            self._endurance.renew()
            self._start_server(crashed=True)
        # The readiness of a server that is on its way answers a restart, too.
        elif command not in (None, "restart", "wait"):
            self._commands.answer(command, {"error": f"unknown command {command!a}"})

    def _facts(self) -> dict[str, Any]:
        state = "serving" if self._ready else "given up" if self._refusal.active else "no server"
        return {
            "mountpoint": self._options.mountpoint,
            "source": str(self._options.source),
            "state": state,
            "keeper": os.getpid(),
            "server": None if self._server is None else self._server.pid,
            "generation": self._generation,
            "last_fault": self._last_fault,
            **self._metrics.facts,
        }

    def _end(self) -> None:
        if self._estate.fuse is not None and self._estate.mount is not None:
            try:
                self._estate.mount.detach(self._estate.fuse)
            except OSError as exc:
                log.error("%a stays mounted, and dead: %s", self._options.mountpoint, exc)
                self._exit_code = EXIT_FAILURE
            os.close(self._estate.fuse)
        self._remains.close()
        # The server's word of the end may be read before the question of who waits for it.
        self._commands.receive_waiting()
        # The server has flushed and closed what was open, or nobody will.
        self._commands.answer("wait", self._facts() | {"exit_code": self._exit_code})
        self._commands.close()  # Whoever starts anew need not wait for the server's end.
        if self._server is not None:
            self._server.wait(_END_S)
