"""What outlives the servers of a mount for the sake of its metrics: the meters, and a listener.

Who scrapes connects to the listener at any time. A server answers; while there is none, whoever
has come waits in the backlog for the next one.
"""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rbdfs.config.option_values import is_path
from rbdfs.errors import UserError
from rbdfs.keeper.estate import new_meters
from rbdfs.model.printable import printable

if TYPE_CHECKING:
    from types import TracebackType

    from rbdfs.config.mount_options import MountOptions

_BACKLOG = 128


class Metrics:
    """Of one mount, as a context: at its end nobody listens any more.

    Attributes:
        memory: that of the meters.
        listener: the descriptor of the listener, None where none was asked for.
    """

    def __init__(self, options: MountOptions) -> None:
        """Raise UserError where nobody can listen at the address that *options* name."""
        self._images = options.metrics_images
        self._address = options.metrics
        self._listener = None if options.metrics is None else _listening(options.metrics)
        self._inode = 0
        if options.metrics is not None and is_path(options.metrics):
            self._inode = Path(options.metrics).stat().st_ino
        self.memory = new_meters()

    def __enter__(self) -> Metrics:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        os.close(self.memory)
        if self._listener is None or self._address is None:
            return
        self._listener.close()
        if is_path(self._address):
            path = Path(self._address)
            with contextlib.suppress(OSError):
                # Another mount may listen there by now.
                if path.stat().st_ino == self._inode:
                    path.unlink()

    @property
    def listener(self) -> int | None:
        return None if self._listener is None else self._listener.fileno()

    @property
    def facts(self) -> dict[str, Any]:
        """What `rbdfs status` tells: where somebody listens, and whether images have series."""
        where = self._address
        if self._listener is not None and self._listener.family != socket.AF_UNIX:
            # Port 0 is any that is free.
            where = host_and_port(*self._listener.getsockname()[:2])
        return {"metrics": where, "metrics_images": self._images}


def host_and_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _listening(address: str) -> socket.socket:
    """Return a socket that listens at *address*; raise UserError."""
    try:
        listener = _at_path(address) if is_path(address) else _at_port(address)
    except OSError as exc:
        reason = exc.strerror or exc
        raise UserError(f"cannot listen on {printable(address)} for metrics: {reason}") from exc
    except UnicodeError as exc:
        # Of the codec that Python gives the resolver a name with.
        raise UserError(f"metrics: no host has this name: {printable(address)}") from exc
    # Of all who share it: a server must not be stuck where another client has been faster.
    listener.setblocking(False)
    return listener


def _at_port(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    # localhost is both; whoever means the other one names it.
    family, *_, where = min(found, key=lambda each: each[0] != socket.AF_INET)
    return _bound(socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC), where)


def _at_path(address: str) -> socket.socket:
    _remove_dead(address)
    return _bound(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC), address)


def _bound(listener: socket.socket, where: Any) -> socket.socket:
    try:
        if listener.family != socket.AF_UNIX:
            # Connections of a mount that has just ended may still be closing.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _remove_dead(address: str) -> None:
    """Remove the socket of a mount that was killed, which nobody listens on any more."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(address)
        except ConnectionRefusedError:
            # What is no socket refuses likewise.
            if Path(address).is_socket():
                Path(address).unlink()
        except OSError:
            return
