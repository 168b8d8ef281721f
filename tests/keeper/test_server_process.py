"""What the keeper hears of a server that has ended."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from rbdfs.keeper import server_process
from rbdfs.keeper.server_process import ServerProcess
from tests.support.conditions import eventually

if TYPE_CHECKING:
    import pytest

# It tells of its end, and leaves with a command of the keeper unread.
SCRIPT = """
import json, os, select, socket, sys
control = socket.socket(fileno=json.load(os.fdopen(int(sys.argv[1])))["control"])
select.select([control], [], [])
control.send(json.dumps({"event": "ended", "exit_code": 0}).encode())
"""


def test_the_last_word_of_a_server_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though its socket says first that it was closed before everything in it was read."""
    monkeypatch.setattr(server_process, "SERVER", [sys.executable, "-c", SCRIPT])
    descriptors: dict[str, Any] = dict.fromkeys(("fuse", "ledger", "meters", "listener"))
    options = SimpleNamespace(source="rbd", mountpoint="/mnt")
    estate: Any = SimpleNamespace(record=dict, options=options, **descriptors)
    server = ServerProcess(estate, quiet=False)
    server.send({"do": "end"})
    eventually(server.is_dead, what="the end of the server")
    assert server.receive() == {"event": "ended", "exit_code": 0}
    assert server.receive() is None
    assert server.wait(20) == 0
