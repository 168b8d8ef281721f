"""Answers of the monitors: the usage of pools, and who is fenced.

An input: a byte for what is asked, and the answer.
"""

from __future__ import annotations

import contextlib
from typing import Any

from fuzzing.parts import Parts
from rbdfs.ceph import monitors


class _Client:
    """As a rados.Rados whose monitors say this."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def mon_command(self, command: str, data: bytes) -> tuple[int, bytes, str]:
        return 0, self._answer, ""


def check(data: bytes) -> None:
    parts = Parts(data)
    blocklist, client = parts.number() & 1, _Client(parts.rest())
    asked: Any = client
    with contextlib.suppress(OSError):
        if blocklist:
            assert all(isinstance(address, str) for address in monitors.blocklist(asked))
        else:
            for pool_id, usage in monitors.usages(asked).items():
                assert isinstance(pool_id, int)
                assert isinstance(usage.used, int)
                assert isinstance(usage.available, int)
