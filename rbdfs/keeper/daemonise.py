"""Going to the background, and telling the caller how the start went."""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import signal
import socket
import sys
from dataclasses import dataclass, field
from typing import Any, NoReturn

from rbdfs.config.secrets import redacted
from rbdfs.errors import EXIT_FAILURE, UserError
from rbdfs.model.printable import printable

log = logging.getLogger(__name__)

_READY = b"\0"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(slots=True)
class Starter:
    """The way back to whoever waits for the mount to be usable.

    Attributes:
        pipe: write end of the pipe to the waiting parent, or None in the foreground.
        json: whether stdout is to have how it went, too.
        facts: what that tells of a mount.
    """

    pipe: int | None = None
    json: bool = False
    facts: dict[str, str] = field(default_factory=dict)

    def ready(self) -> None:
        """Say that the mount is usable: to the parent, which exits, and to NOTIFY_SOCKET.

        Raises UserError where the parent has ended: a mount that nobody was told of is not wanted.
        """
        notify_service_manager(f"READY=1\nMAINPID={os.getpid()}")
        if self.json:
            _print_json(self.facts | {"pid": os.getpid()})
        if self.pipe is not None:
            # Not before the mount is there: autofs keeps those waiting who are not of the process
            # group that it has asked for the mount.
            os.setsid()
            leave_standard_descriptors()
            # In this order, for a parent that is told ends at once: of one that ended without, the
            # pipe tells.
            _end_with_the_parent(0)
            if not self._send(_READY):
                raise UserError("who has waited for the mount has gone")

    def failed(self, error: UserError) -> None:
        """Say in one line why nothing is mounted; the parent exits with the error's code."""
        # What is said of a command line that makes no sense may quote it.
        line = printable(redacted(" ".join(str(error).split())))
        if self.pipe is None:
            self.tell(line, error.facts)
        else:
            self._send(bytes([error.exit_code]) + line.encode("utf-8", "surrogateescape"))

    def tell(self, line: str, facts: dict[str, Any] | None = None) -> None:
        """Tell the caller, who waits for this process, why nothing is mounted."""
        print(f"rbdfs: {line}", file=sys.stderr, flush=True)  # noqa: T201
        if self.json:
            _print_json({"error": line} | (facts or {}))

    def _send(self, message: bytes) -> bool:
        pipe, self.pipe = self.pipe, None
        if pipe is None:
            return False
        try:
            os.write(pipe, message)
        except BrokenPipeError:
            return False
        finally:
            os.close(pipe)
        return True


def _end_with_the_parent(signum: int) -> None:
    """Have the kernel send *signum* to this process when its parent ends, or (0) nothing."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signum)


def _print_json(facts: dict[str, Any]) -> None:
    # Whoever has closed stdout does not want to know, and is told by the exit code in any case.
    with contextlib.suppress(OSError):
        os.write(1, (json.dumps(facts, indent=2) + "\n").encode())


class SignalSocket:
    """Signals as something to wait for with a selector: a context that takes them over.

    SIGHUP is ignored unless it is one of them: the end of a terminal says nothing about a mount.
    """

    def __init__(self, *numbers: signal.Signals) -> None:
        self._ours, self._theirs = socket.socketpair()
        self._ours.setblocking(False)
        self._theirs.setblocking(False)
        self._numbers = numbers

    def __enter__(self) -> SignalSocket:
        signal.set_wakeup_fd(self._theirs.fileno())
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for number in self._numbers:
            signal.signal(number, lambda *_: None)
        return self

    def __exit__(self, *_exc: object) -> None:
        signal.set_wakeup_fd(-1)
        self._theirs.close()
        self._ours.close()

    def fileno(self) -> int:
        return self._ours.fileno()

    def receive(self) -> list[signal.Signals]:
        """Return those that have come since the last call."""
        return [signal.Signals(number) for number in self._ours.recv(64)]


def open_standard_descriptors() -> None:
    """Make /dev/null of stdin, stdout and stderr where the caller has closed them.

    What is opened later would get their numbers otherwise, and what is printed.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def leave_standard_descriptors() -> None:
    """Leave the caller's terminal or pipes, which would wait for the end of the mount.

    Not before the mount is usable: what libraries print about a failed start is for the caller.
    """
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)


def daemonise(starter: Starter) -> None:
    """Fork: return in the child, in /; the parent waits for it and exits.

    From here on *starter* speaks to the parent. Until the mount can be used the child ends with the
    parent, whatever ends that.

    Connecting to the cluster comes afterwards, because librados' threads do not survive a fork.
    """
    read_end, write_end = os.pipe()
    # One that comes between the fork and the handlers of who waits would end him without a word.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPTIONS)
    parent, child = os.getpid(), os.fork()
    if child:
        os.close(write_end)
        _hand_on_interruptions(child)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        _await_start(child, read_end, starter)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    os.close(read_end)
    _end_with_the_parent(signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(EXIT_FAILURE)
    # Of the caller's nothing is kept: what is made is for this user and his group.
    os.umask(0o027)
    os.chdir("/")
    starter.pipe = write_end


def _hand_on_interruptions(child: int) -> None:
    # Who interrupts the wait is told when the daemon has ended, and of a mount that is not there.
    for number in _INTERRUPTIONS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: os.kill(child, signal.SIGTERM))


def _await_start(child: int, pipe: int, starter: Starter) -> NoReturn:
    message = b""
    while chunk := os.read(pipe, 65536):
        message += chunk
    if message == _READY:
        os._exit(0)
    if message:
        code, line = message[0], message[1:].decode("utf-8", "replace")
    else:
        _, status = os.waitpid(child, 0)
        code = EXIT_FAILURE
        line = f"ended unexpectedly (exit code {os.waitstatus_to_exitcode(status)})"
    starter.tell(line)
    os._exit(code)


def notify_service_manager(state: str) -> None:
    """Send *state* to the socket that NOTIFY_SOCKET names, as sd_notify(3) does.

    Where nobody is there, the log says so: sudo and containers hand on a NOTIFY_SOCKET that means
    nothing any more, and a mount that can be used does not depend on who hears of it.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.sendto(state.encode(), address)
        except OSError as exc:
            log.info("NOTIFY_SOCKET is ignored: %s", exc.strerror)
