"""The server as a process of its own, and the socket between it and the keeper."""

from __future__ import annotations

import array
import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rbdfs.keeper.messages import decoded, encoded
from rbdfs.model.printable import printable

if TYPE_CHECKING:
    from rbdfs.keeper.estate import Estate

# The command line of a server; the descriptor of what it is to know follows, and for ps(1) and its
# readers, which mount it is. It is run in /, and looks for modules in no working directory (-P):
# that may be anybody's, or below the mount point, which answers nobody then.
SERVER = [os.path.abspath(sys.executable), "-P", "-m", "rbdfs.server"]
# Servers of version 1 sent messages of up to this length.
_MESSAGE_BYTES = 1 << 18
# Of Debian's libtcmalloc-minimal4.
_ALLOCATOR = "libtcmalloc_minimal.so.4"
# How long a killed process may take to be gone, in seconds.
_REAP_S = 0.5


class ServerProcess:
    """A running server, or one whose end was not noticed yet."""

    def __init__(self, estate: Estate, *, quiet: bool) -> None:
        """Start it, for it to go on with *estate*; raise OSError.

        A *quiet* one has no terminal: a daemon must not hold its caller's pipes.
        """
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        state = estate.record() | {"control": theirs.fileno(), "keeper": os.getpid()}
        shared = (estate.fuse, estate.ledger, estate.meters, estate.listener)
        inherited = (theirs.fileno(), *shared)
        descriptors = [fd for fd in inherited if fd is not None]
        try:
            with theirs:
                self._process = _spawn(state, descriptors, _name(estate), quiet=quiet)
        except BaseException:
            self.control.close()
            raise
        self.pid = self._process.pid

    def receive(self) -> dict[str, Any] | None:
        """Return the next event, or None where the server has ended or closed its side.

        Raises ValueError for what is none.
        """
        try:
            message = self.control.recv(_MESSAGE_BYTES)
        except ConnectionResetError:
            # It has left with a command unread. What it has said before is there all the same.
            message = self.control.recv(_MESSAGE_BYTES)
        return decoded(message) if message else None

    def send(self, message: dict[str, Any], descriptor: int | None = None) -> None:
        """Send *message*; never blocks.

        A server that is gone does not get it, and receive() tells of that. Nor does one that hangs,
        and has not read hundreds of them.
        """
        descriptors = array.array("i", [] if descriptor is None else [descriptor])
        # socket.send_fds() takes flags, and ignores them, in Python 3.11.
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)
        with contextlib.suppress(ConnectionError, BlockingIOError):
            self.control.sendmsg([encoded(message)], [rights], socket.MSG_DONTWAIT)

    def kill(self) -> None:
        self._process.kill()

    def is_dead(self) -> bool:
        """Tell whether it does nothing any more, though it may still have its socket open.

        A thread that the kernel holds up, because the mount has not answered, keeps a killed
        process from ending; its successor is what lets it go.
        """
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_bytes()
        except OSError as exc:
            return exc.errno == errno.ENOENT
        return stat.rpartition(b")")[2].split()[0] == b"Z"

    def wait(self, timeout_s: float) -> int:
        """Close the control socket and return the exit code, if need be after a kill."""
        self.control.close()
        for patience_s in (0.0 if self.is_dead() else timeout_s, _REAP_S):
            try:
                return self._process.wait(patience_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
        return -signal.SIGKILL


def end_of(exit_code: int) -> str:
    """Return what is to be said of a server that has ended so."""
    if exit_code < 0:
        return f"was killed (signal {-exit_code})"
    return f"ended with exit code {exit_code}"


def _environment() -> dict[str, str]:
    """Return the environment of a server: this one, with tcmalloc for malloc where it is installed.

    librbd frees on one thread what it has allocated on another, which glibc's caches are not made
    for: with tcmalloc the 4 KiB reads at depth 32 were 1.13 times as many.
    """
    library = Path("/usr/lib", sysconfig.get_config_var("MULTIARCH") or "", _ALLOCATOR)
    if not library.exists():
        return dict(os.environ)
    others = os.environ.get("LD_PRELOAD")
    return os.environ | {"LD_PRELOAD": f"{others}:{library}" if others else str(library)}


def _name(estate: Estate) -> str:
    return printable(f"{estate.options.source} on {estate.options.mountpoint}")


def _spawn(
    state: dict[str, Any], descriptors: list[int], name: str, *, quiet: bool
) -> subprocess.Popen[bytes]:
    with os.fdopen(os.memfd_create("rbdfs-state"), "w+") as memory:
        # In one piece: json.dump() writes each number and each comma by itself.
        memory.write(json.dumps(state))
        memory.flush()
        os.lseek(memory.fileno(), 0, os.SEEK_SET)
        return subprocess.Popen(
            [*SERVER, str(memory.fileno()), name],
            env=_environment(),
            cwd="/",
            pass_fds=[*descriptors, memory.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if quiet else None,
            stderr=subprocess.DEVNULL if quiet else None,
            # A terminal's Ctrl-C is for the keeper, which tells the server.
            start_new_session=True,
        )
