"""rbdfs whose servers say odd things first: `python tests/support/odd_server.py ARGUMENT...`.

The ARGUMENTS are those of rbdfs.
"""

from __future__ import annotations

import json
import os
import socket
import sys

from rbdfs.keeper import server_process

PACKETS = [
    b"[]",
    b"nonsense",
    b"\xff\xfe",
    b"[" * 50_000,
    b'{"event": "eclipse", "sun": "dark"}',
    b'{"event": "gone"}',
    b'{"event": "ready"}',
    b'{"event": "remember", "kind": "file"}',
    b'{"event": {"a": 1}}',
    b'{"event": "left", "planets": 8}',
]

if __name__ == "__main__":
    if sys.argv[1] == "rbdfs.server":
        from rbdfs.server.__main__ import main as serve

        del sys.argv[1]
        state = json.loads(os.pread(int(sys.argv[1]), 1 << 24, 0))
        with socket.socket(fileno=os.dup(state["control"])) as control:
            for packet in PACKETS:
                control.send(packet)
        sys.exit(serve())
    from rbdfs.cli import main

    server_process.SERVER = [sys.executable, __file__, "rbdfs.server"]
    sys.exit(main(sys.argv[1:]))
