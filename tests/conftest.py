"""Fixtures: one cluster for the suite, a pool for each module, a name for each image."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.ceph import Ceph

if TYPE_CHECKING:
    from collections.abc import Iterator


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "ceph" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="session")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ceph]:
    """The cluster of the suite (memstore, one OSD).

    RBDFS_TEST_CLUSTER=DIR uses the one of `contrib/cluster start DIR`, and leaves it running.
    """
    running = os.environ.get("RBDFS_TEST_CLUSTER")
    if running:
        yield Ceph(Path(running).resolve())
        return
    if shutil.which("ceph-mon") is None:
        pytest.skip("ceph-mon is not installed (contrib/setup installs it)")
    cluster = Ceph.start(tmp_path_factory.mktemp("ceph"))
    try:
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def pool(ceph: Ceph) -> Iterator[str]:
    """The name of an empty pool of the test module (8 placement groups, made in 0.4 s)."""
    name = f"pool-{uuid.uuid4().hex[:8]}"
    ceph.ceph("osd", "pool", "create", name)
    try:
        ceph.rbd("pool", "init", name)
        yield name
    finally:
        # The mon answers at once; the OSD removes the objects in its own time.
        ceph.ceph("osd", "pool", "rm", name, name, "--yes-i-really-really-mean-it")


@pytest.fixture
def image_name() -> str:
    """A name that no other test uses."""
    return f"image-{uuid.uuid4().hex[:8]}"
