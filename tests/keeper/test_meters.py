"""The meters of a mount: what clients have done is counted, over servers, and read by who may."""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING

import pytest

from rbdfs.keeper.meters_client import MetersReader, meters_at
from tests.support.mounts import opened
from tests.support.servers import ask, killed_server

if TYPE_CHECKING:
    from rbdfs.model.meters import OperationMeters
    from tests.support.mounts import Mount, Mounting

pytestmark = pytest.mark.usefixtures("native")

BLOCK = 4096


def operation(reader: MetersReader, spec: str, name: str) -> OperationMeters:
    return reader.snapshot().images[spec].operations[name]


def read_and_write(mount: Mount, image: str, count: int) -> None:
    """So many of each, past the page cache, and an fsync."""
    with opened(mount.file(image), os.O_RDWR | os.O_DIRECT) as file:
        block = mmap.mmap(-1, BLOCK)
        for i in range(count):
            assert os.preadv(file, [block], i * BLOCK) == BLOCK
            assert os.pwritev(file, [block], i * BLOCK) == BLOCK
        os.fsync(file)


def test_work_is_counted_over_servers(pool: str, image: str, mounting: Mounting) -> None:
    spec = f"{pool}/{image}"
    with mounting(pool) as mount, meters_at(str(mount.path), "status") as reader:
        assert reader.facts["state"] == "serving"
        read_and_write(mount, image, 7)
        for name, count in (("read", 7), ("write", 7), ("flush", 1)):
            meters = operation(reader, spec, name)
            assert (meters.count, meters.in_flight, meters.errors) == (count, 0, {})
            assert meters.bytes == (0 if name == "flush" else count * BLOCK)
        killed_server(mount)
        assert operation(reader, spec, "write").count == 7
        read_and_write(mount, image, 2)
        assert operation(reader, spec, "write").count == 9
        ask(mount, "restart")
        read_and_write(mount, image, 1)
        assert operation(reader, spec, "read").count == 10
        for change in (os.ftruncate, lambda file, size: os.pwrite(file, b"x", size)):
            with pytest.raises(OSError, match=r"."):
                change(reader.descriptor, 0)
