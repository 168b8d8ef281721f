"""A cluster of a module's own, for what the one of the suite would not get over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.ceph import Ceph

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def bluestore(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ceph]:
    """Its OSD keeps what it has written when it is killed, and may be away for long."""
    cluster = Ceph.start(tmp_path_factory.mktemp("bluestore"), objectstore="bluestore")
    try:
        yield cluster
    finally:
        cluster.stop()
