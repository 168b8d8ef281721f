"""The thread that answers whoever scrapes a mount, by HTTP on a listener that it is given."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import threading
import time
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler

from prometheus_client import make_wsgi_app

from rbdfs.metrics.shared_answers import SharedAnswers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from prometheus_client import CollectorRegistry

log = logging.getLogger(__name__)

# Connections at a time. One more ends the oldest: that of somebody who says nothing, mostly.
_MOST = 16
# How long one may last, in seconds, and how long its client may say or take nothing.
_LONGEST_S = 20.0
_SILENT_S = 5.0
# How often to look whether one has lasted too long; and the pause where none can be accepted.
_LOOK_S = 1.0
# How long what is being answered at the end of a server may take, in seconds.
_END_S = 1.0


class _Handler(WSGIRequestHandler):
    """One connection: a request, and its answer."""

    timeout = _SILENT_S

    def address_string(self) -> str:
        return str(self.client_address[0])

    def log_message(self, format: str, *args: Any) -> None:
        # What a client has sent is not for the log as it is.
        log.debug("metrics: %a", format % args)

    def get_stderr(self) -> Any:
        return _Nowhere()


class _Nowhere:
    """In the place of stderr, which a daemon does not have."""

    def write(self, _text: str) -> None: ...

    def flush(self) -> None: ...


class Endpoint:
    """Answers with what a registry collects.

    It is what wsgiref takes for its server, too, and so has some attributes for that.
    """

    multithread = True
    server_name = "rbdfs"
    server_port = 0

    def __init__(self, listener: socket.socket, registry: CollectorRegistry) -> None:
        """*listener* does not block, and may be shared with others."""
        self._listener = listener
        self._app = _logged(SharedAnswers(make_wsgi_app(registry)))
        self.base_environ = {
            "SERVER_NAME": self.server_name,
            "GATEWAY_INTERFACE": "CGI/1.1",
            "SERVER_PORT": "",
            "REMOTE_HOST": "",
            "CONTENT_LENGTH": "",
            "SCRIPT_NAME": "",
        }
        self._lock = threading.Lock()
        # The oldest comes first.
        self._connections: dict[socket.socket, float] = {}
        self._stopping = os.eventfd(0, os.EFD_CLOEXEC)

    def get_app(self) -> Callable[..., Iterable[bytes]]:
        """Return what answers, for wsgiref."""
        return self._app

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Answer for the time of the context, in threads of its own."""
        thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        thread.start()
        try:
            yield
        finally:
            os.eventfd_write(self._stopping, 1)
            thread.join(_END_S)
            self._finish()

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        poll.register(self._stopping, select.POLLIN)
        while True:
            ready = dict(poll.poll(_LOOK_S * 1000 if self._connections else None))
            if self._stopping in ready:
                return
            self._drop(before=time.monotonic() - _LONGEST_S)
            if ready:
                self._accept()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError as exc:
            # No descriptor is left, most likely, and the next look would find the same.
            log.warning("metrics: cannot accept: %s", exc.strerror)
            time.sleep(_LOOK_S)
            return
        with self._lock:
            crowded = len(self._connections) >= _MOST
            self._connections[connection] = time.monotonic()
        if crowded:
            self._drop()
        try:
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()
        except RuntimeError as exc:
            log.warning("metrics: no thread to answer in: %s", exc)
            self._forget(connection)

    def _answer(self, connection: socket.socket) -> None:
        try:
            # Any handler of the standard library names its client by host and port.
            _Handler(connection, ("", 0), self)  # type: ignore[arg-type]
        except OSError as exc:
            log.debug("metrics: a client has gone, or was dropped: %s", exc)
        except Exception:
            log.exception("metrics: a request is not answered")
        finally:
            self._forget(connection)

    def _forget(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.pop(connection, None)
            connection.close()

    def _drop(self, before: float | None = None) -> None:
        """End the oldest connection, or all that have begun *before* that time."""
        with self._lock:
            for connection, begun in list(self._connections.items()):
                if before is not None and begun > before:
                    return
                # Its thread finds out, and closes it.
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                if before is None:
                    del self._connections[connection]
                    return

    def _finish(self) -> None:
        """Let what is being answered come to its end, and end the rest."""
        deadline = time.monotonic() + _END_S
        while self._connections and time.monotonic() < deadline:
            time.sleep(0.01)
        self._drop(before=time.monotonic())
        os.close(self._stopping)


def _logged(app: Callable[..., Any]) -> Callable[..., Iterable[bytes]]:
    """Return *app*, with its failures in the log."""

    def answering(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        try:
            return list(app(environ, start_response))
        except Exception:
            log.exception("metrics: they cannot be told")
            start_response("500 Internal Server Error", [("Content-Type", "text/plain")])
            return [b"the log of rbdfs says why\n"]

    return answering
