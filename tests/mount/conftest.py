"""A place where rbdfs is installed, for mount(8) to find it."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.support.mounts import RBDFS, processes_naming, wait_for_end
from tests.support.namespaces import WITHOUT_MOUNTS_OF_OTHERS, Namespace, namespace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.mounts import Mounting


@pytest.fixture
def here() -> Iterator[Namespace]:
    """A namespace where rbdfs is installed, in a place that mount(8) has in its PATH."""
    if shutil.which("mount.fuse3", path="/sbin:/usr/sbin") is None:
        pytest.skip("needs mount.fuse3")
    install = f"mount -t tmpfs none /usr/local/bin && ln -s {RBDFS} /usr/local/bin/rbdfs"
    with namespace(WITHOUT_MOUNTS_OF_OTHERS + install) as here:
        yield here


@pytest.fixture
def mountpoint_here(mounting: Mounting, here: Namespace) -> Iterator[Path]:
    """A mount point there; what is mounted on it at the end is taken away."""
    path = mounting.mountpoint("with space")
    try:
        yield path
    finally:
        daemons = processes_naming(str(path))
        here.run("umount", "-l", path)
        for pid in daemons:
            wait_for_end(pid)
