"""The keeper: holds the kernel connection, and starts a new server when one dies or is replaced.

It knows nothing of Ceph, and does so little that nothing of it should ever fail: the server does
the work, in a process of its own, and tells the keeper what a successor would need to know.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from rbdfs import mountpoint, refusal
from rbdfs.commands import CommandSocket
from rbdfs.errors import EXIT_FAILURE, UserError

if TYPE_CHECKING:
    from rbdfs.daemon import Starter
    from rbdfs.options import MountOptions

log = logging.getLogger(__name__)

# Between the death of a server and the start of the next, in seconds, for deaths in a row. What
# kills a server at once will do so again: after the last one requests are refused instead.
_PAUSES_S = (0.0, 0.1, 0.5, 1.0, 2.0, 4.0, 8.0)
# A server that has served so long, in seconds, did not die of what its successor will do first.
_SETTLED_S = 1.0
# Between tries to start a server that says itself that it cannot.
_RETRY_S = 1.0
_MESSAGE_BYTES = 1 << 18


class Keeper:
    """One mount, for as long as it lives."""

    def __init__(self, options: MountOptions, arguments: list[str], starter: Starter) -> None:
        self._options = options
        self._arguments = arguments
        self._directory = os.getcwd()
        self._starter = starter
        self._stack = contextlib.ExitStack()
        self._selector = self._stack.enter_context(selectors.DefaultSelector())
        self._fuse: int | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._commands: CommandSocket | None = None
        # What a successor needs, as the server tells it.
        self._init = ""
        self._addresses: list[str] = []
        self._handles: dict[str, Any] = {}
        # How the current server is doing.
        self._ready = False
        self._exit_code: int | None = None
        self._replacing = False
        self._failed = False
        self._ending = False
        self._started = self._ready_since = 0.0
        # How its predecessors did.
        self._generation = 0
        self._deaths = 0
        self._last_fault = "none"

    def run(self) -> int:
        """Serve until the mount is over; return the exit code. Raises UserError at the start."""
        with self._stack:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._forward_signal)
            self._start_server(fence=False)
            while self._exit_code is None:
                for key, _ in self._selector.select():
                    key.data()
                    # What it did may have taken others away.
                    break
            self._end()
            return self._exit_code

    def _forward_signal(self, number: int, _frame: object) -> None:
        if self._server is not None and self._server.poll() is None:
            # The second one makes the server leave at once, and then the keeper too.
            self._ending = True
            self._server.send_signal(number)
        else:
            # Nobody is there to drain anything; without its mount the kernel ends the connection.
            self._exit_code = EXIT_FAILURE
            mountpoint.detach(self._options.mountpoint)

    # The server's life.

    def _start_server(self, *, fence: bool) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        state = {
            "arguments": self._arguments,
            "directory": self._directory,
            "control": theirs.fileno(),
            "fuse": self._fuse,
            "init": self._init,
            "predecessors": self._addresses if fence else [],
            "handles": list(self._handles.values()),
        }
        descriptors = [theirs.fileno(), *([] if self._fuse is None else [self._fuse])]
        with theirs, os.fdopen(os.memfd_create("rbdfs-state"), "w+") as memory:
            json.dump(state, memory)
            memory.flush()
            os.lseek(memory.fileno(), 0, os.SEEK_SET)
            self._server = subprocess.Popen(
                [sys.executable, "-m", "rbdfs.server", str(memory.fileno())],
                pass_fds=[*descriptors, memory.fileno()],
            )
        self._control = ours
        self._selector.register(ours, selectors.EVENT_READ, self._hear_server)
        self._generation += 1
        self._started = time.monotonic()
        self._ready = self._replacing = self._failed = False

    def _hear_server(self) -> None:
        assert self._control is not None
        try:
            message = self._control.recv(_MESSAGE_BYTES)
        except ConnectionResetError:
            message = b""
        if not message:
            self._server_is_gone()
            return
        event = json.loads(message)
        getattr(self, f"_on_{event.pop('event')}")(**event)

    def _on_mount(self) -> None:
        assert self._control is not None
        try:
            self._fuse = mountpoint.mount(self._options)
        except UserError as exc:
            self._control.send(json.dumps({"error": str(exc)}).encode())
        else:
            socket.send_fds(self._control, [b"{}"], [self._fuse])

    def _on_addresses(self, addresses: list[str]) -> None:
        self._addresses = addresses

    def _on_opened(self, fh: int, handle: dict[str, Any]) -> None:
        self._handles[str(fh)] = handle

    def _on_released(self, fh: int) -> None:
        self._handles.pop(str(fh), None)

    def _on_ready(self, init: str) -> None:
        self._ready = True
        self._ready_since = time.monotonic()
        self._init = init
        if self._commands is None:
            self._commands = self._stack.enter_context(CommandSocket(self._options.mountpoint))
            self._selector.register(
                self._commands.listener, selectors.EVENT_READ, self._hear_command
            )
            self._starter.ready()
        elapsed = time.monotonic() - self._started
        log.info("server %d is ready after %.2f s", self._generation, elapsed)
        self._commands.answer({"generation": self._generation, "seconds": round(elapsed, 3)})

    def _on_failed(self, message: str, exit_code: int) -> None:
        if self._commands is None:
            raise UserError(message, exit_code)
        self._failed = True
        log.error("server %d could not start: %s", self._generation, message)

    def _on_replace_me(self) -> None:
        self._replacing = True

    def _on_ended(self, exit_code: int) -> None:
        self._exit_code = exit_code

    def _on_status(self, **status: Any) -> None:
        assert self._commands is not None
        self._commands.answer(self._facts() | status)

    def _server_is_gone(self) -> None:
        assert self._server is not None
        assert self._control is not None
        self._selector.unregister(self._control)
        self._control.close()
        self._control = None
        code = self._server.wait()
        if self._exit_code is not None:
            return
        if self._replacing:
            self._start_server(fence=False)
            return
        if self._commands is None:
            raise UserError(f"the server ended unexpectedly (exit code {code})")
        if self._ending:
            self._exit_code = EXIT_FAILURE
            return
        self._last_fault = f"server {self._generation} ended with exit code {code}"
        log.error("%s", self._last_fault)
        if self._failed:
            # The cluster is away, most likely: requests wait, as on any block device.
            time.sleep(_RETRY_S)
        elif not self._pause():
            return
        self._start_server(fence=True)

    def _pause(self) -> bool:
        """Wait before the next server, longer each time; False when there is to be none."""
        if self._ready and time.monotonic() - self._ready_since > _SETTLED_S:
            self._deaths = 0
        if self._deaths < len(_PAUSES_S):
            time.sleep(_PAUSES_S[self._deaths])
            self._deaths += 1
            return True
        log.critical("giving up: requests are answered with EIO until the mount is ended")
        assert self._fuse is not None
        refusal.refuse_everything(self._fuse)
        self._exit_code = EXIT_FAILURE
        return False

    # What the commands restart and status ask for.

    def _hear_command(self) -> None:
        assert self._commands is not None
        command = self._commands.receive()
        if command is None:
            return
        if self._control is None or not self._ready:
            self._commands.answer(self._facts() | {"error": "no server is ready"})
        elif command in ("restart", "status"):
            self._control.send(json.dumps({"do": command}).encode())
        else:
            self._commands.answer({"error": f"unknown command {command!a}"})

    def _facts(self) -> dict[str, Any]:
        return {
            "mountpoint": self._options.mountpoint,
            "source": str(self._options.source),
            "keeper": os.getpid(),
            "server": None if self._server is None else self._server.pid,
            "generation": self._generation,
            "last_fault": self._last_fault,
        }

    def _end(self) -> None:
        if self._fuse is not None:
            mountpoint.detach(self._options.mountpoint)
            os.close(self._fuse)
        if self._control is not None:
            self._control.close()
        if self._server is not None:
            self._server.wait()
