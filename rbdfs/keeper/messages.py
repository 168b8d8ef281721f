"""What keeper and server say to each other: JSON objects, one a packet, each with a version.

An upgrade makes a server speak to a keeper of an older version. So whoever hears ignores events
and fields that it does not know, and the server of a newer version says to an older keeper only
what that one knows: the keeper of version 1 dies of anything else.
"""

from __future__ import annotations

import errno
import inspect
import json
import logging
import socket
from typing import TYPE_CHECKING, Any

from rbdfs.model.record import ignore

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

VERSION = 2
"""Of the messages and of the estate. Version 1 had no number."""

MESSAGE_BYTES = 1 << 17
"""No message is longer: a socket takes 208 KiB at least, and one that was cut is none."""

NO_MEMORY = (errno.ENOBUFS, errno.ENOMEM)
"""What send(2) comes to where the kernel has no memory in one piece for a packet of 100 KiB."""


def encoded(message: dict[str, Any], version: int = VERSION) -> bytes:
    """Return *message* as a hearer of *version* takes it."""
    stamp = {} if version == 1 else {"version": VERSION}
    return json.dumps(message | stamp).encode()


def decoded(packet: bytes) -> dict[str, Any]:
    """Return the message in *packet*, without its version; raise ValueError where none is."""
    try:
        message = json.loads(packet)
    except RecursionError as exc:
        raise ValueError("nested too deeply") from exc
    if not isinstance(message, dict):
        raise ValueError(f"not an object: {message!a:.80}")
    message.pop("version", None)
    return message


class Listener:
    """Hears messages of a server that may be of another version, by name.

    ``Listener(ready=f)`` calls ``f(init=...)`` for the event ``ready`` with the field ``init``. An
    event without a function, and a field without a parameter of it, are ignored, and the log says
    so once.
    """

    def __init__(self, **heard: Callable[..., None]) -> None:
        self._heard = {name: (hear, _fields(hear)) for name, hear in heard.items()}

    def hear(self, message: dict[str, Any]) -> None:
        """Call the function of the event that *message* tells of."""
        name = str(message.pop("event", None))
        if name not in self._heard:
            ignore("message", name)
            return
        hear, fields = self._heard[name]
        if fields is not None:
            for unknown in message.keys() - fields:
                del message[unknown]
                ignore(name, unknown)
        hear(**message)


def _fields(hear: Callable[..., None]) -> frozenset[str] | None:
    """Return the fields that *hear* knows; None where it takes all."""
    parameters = inspect.signature(hear).parameters
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()):
        return None
    return frozenset(parameters)


def send_facts(sock: socket.socket, facts: dict[str, Any], *descriptors: int) -> None:
    """Send *facts*, with fewer files where the kernel does not take all of them in one packet.

    It has no room for what is longer than its buffer, nor always memory for what is not.
    """
    while True:
        try:
            socket.send_fds(sock, [json.dumps(facts).encode()], descriptors)
        except OSError as exc:
            files = facts.get("files")
            if exc.errno in (errno.EMSGSIZE, *NO_MEMORY) and files:
                facts = {**facts, "files": files[: len(files) // 2]}
                continue
            if exc.errno not in (errno.EPIPE, errno.ECONNRESET):
                log.warning("an answer is not sent: %s", exc.strerror)
        return
