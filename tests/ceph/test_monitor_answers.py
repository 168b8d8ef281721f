"""What monitors of another version may answer: it is understood, or not, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rbdfs.ceph.monitors import PoolUsage, blocklist, usages
from rbdfs.errors import NotUnderstood


class Client:
    """As a rados.Rados."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def mon_command(self, command: str, data: bytes) -> tuple[int, bytes, str]:
        return 0, self._answer, ""


STATS = {"stored": 5, "max_avail": 90, "quota_bytes": 25, "quota_objects": 0, "objects": 1}


def pools(**stats: object) -> bytes:
    return json.dumps({"pools": [{"id": 3, "stats": STATS | stats}]}).encode()


def test_usage() -> None:
    client: Any = Client(pools())
    assert usages(client) == {3: PoolUsage(5, 20)}


def test_blocklist() -> None:
    client: Any = Client(b'[{"addr": "10.0.0.1:0/1", "until": "x"}]\n[{"range": "y"}]')
    assert blocklist(client) == {"10.0.0.1:0/1"}


NOISE = [b"", b"{", b"\xff", b"[" * 100_000, b"7", b"null", b'"x"', b'{"pools": 7}']


@pytest.mark.parametrize(
    "answer",
    [
        *NOISE,
        b'{"pools": [7]}',
        b'{"pools": [{"id": [], "stats": {}}]}',
        b'{"pools": [{"id": "x", "stats": %s}]}' % json.dumps(STATS).encode(),
        pools(stored=float("inf")),
        pools(max_avail=float("nan")),
        pools(stored="many"),
        pools(quota_bytes=[1]),
        pools(quota_bytes=float("inf")),
    ],
    ids=lambda answer: ascii(answer[:60]),
)
def test_a_usage_that_makes_no_sense(answer: bytes) -> None:
    client: Any = Client(answer)
    with pytest.raises(NotUnderstood):
        usages(client)


@pytest.mark.parametrize(
    "answer",
    [*NOISE, b"[7]", b"[{}]", b'[{"addr": 7}]', b'[{"addr": []}]'],
    ids=lambda answer: ascii(answer[:60]),
)
def test_a_blocklist_that_makes_no_sense(answer: bytes) -> None:
    client: Any = Client(answer)
    with pytest.raises(NotUnderstood):
        blocklist(client)
