"""The pool that the recipes speak of, and the machine on which they are followed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.support.recipes import POOL, Machine, machine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.ceph import Ceph


@pytest.fixture
def pool(ceph: Ceph) -> Iterator[str]:
    """`vms`, empty."""
    ceph.ceph("osd", "pool", "create", POOL)
    try:
        ceph.rbd("pool", "init", POOL)
        yield POOL
    finally:
        ceph.remove_pool(POOL)


@pytest.fixture
def here(ceph: Ceph, pool: str, tmp_path: Path) -> Iterator[Machine]:
    if os.geteuid() or not os.path.exists("/dev/fuse"):
        pytest.skip("needs root and /dev/fuse")
    with machine(ceph, tmp_path) as here:
        yield here
