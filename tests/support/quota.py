"""Pools that are full, by a quota."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

from tests.support.conditions import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.ceph import Ceph


@contextlib.contextmanager
def pool_with_a_quota(ceph: Ceph, pool: str) -> Iterator[Callable[[int], None]]:
    """A new pool; yield what sets its quota in bytes (0: none), without starting a process.

    The copy that a process has of a file that is open here would have to be flushed.
    """
    ceph.ceph("osd", "pool", "create", pool, "8")
    try:
        ceph.rbd("pool", "init", pool)
        with ceph.connect() as cluster:

            def command(prefix: str, **arguments: str) -> bytes:
                text = json.dumps({"prefix": prefix, **arguments})
                code, answer, message = cluster.mon_command(text, b"")
                assert code == 0, message
                return bytes(answer)

            def set_quota(size: int) -> None:
                command("osd pool set-quota", pool=pool, field="max_bytes", val=str(size))
                if size:
                    eventually(lambda: b"full_quota" in command("osd dump"), 30, "a full pool")

            yield set_quota
            set_quota(0)
    finally:
        ceph.ceph("osd", "pool", "rm", pool, pool, "--yes-i-really-really-mean-it")
