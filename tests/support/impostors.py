"""Those who listen where a keeper would."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# Listens on an address as some user, and answers everybody with the same bytes.
_IMPOSTOR = """
import contextlib, os, socket, sys
address, uid, answer = sys.argv[1], int(sys.argv[2]), os.fsencode(sys.argv[3])
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
    listener.bind(address.replace("@", chr(0)))
    os.setuid(uid)
    listener.listen()
    print(flush=True)
    while True:
        with contextlib.suppress(OSError), listener.accept()[0] as caller:
            caller.recv(256)
            caller.send(answer)
"""


@contextlib.contextmanager
def impostor(address: str, uid: int, answer: str) -> Iterator[None]:
    """Somebody at `address` (`@` for an abstract one) who is `uid` and says only `answer`."""
    command = [sys.executable, "-c", _IMPOSTOR, address, str(uid), answer]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"\n"
            yield
        finally:
            process.kill()
