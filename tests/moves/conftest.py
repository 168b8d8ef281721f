"""Fixtures: a client of the cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rbdfs.ceph.aio import AioBridge
from rbdfs.ceph.cluster import Cluster
from rbdfs.config.ceph_settings import CephSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.ceph import Ceph


@pytest.fixture
async def cluster(ceph: Ceph) -> AsyncIterator[Cluster]:
    async with Cluster.connect(CephSettings("admin", ceph.conf), AioBridge(), 10) as cluster:
        yield cluster
