"""What rbdfs tells a service manager."""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import uuid

TIMEOUT_S = 30.0


class NotifySocket:
    """The socket that a service manager would name in NOTIFY_SOCKET (sd_notify(3))."""

    def __init__(self, address: str | None = None) -> None:
        self.address = address or f"@rbdfs-test-{uuid.uuid4().hex}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.bind(re.sub("^@", "\0", self.address))

    def __enter__(self) -> NotifySocket:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._socket.close()

    def receive(self, pid: int | None = None, timeout: float = TIMEOUT_S) -> dict[str, str] | None:
        """The next message's assignments; None if process `pid` ended without one.

        Raises TimeoutError after `timeout` s.
        """
        sources = [self._socket.fileno()]
        with contextlib.ExitStack() as stack:
            if pid is not None:
                sources.append(os.pidfd_open(pid))
                stack.callback(os.close, sources[-1])
            readable = select.select(sources, [], [], timeout)[0]
        if not readable:
            raise TimeoutError(f"no message within {timeout:g} s")
        if self._socket.fileno() not in readable:
            return None
        lines = self._socket.recv(4096).decode().splitlines()
        return dict(line.split("=", 1) for line in lines)
