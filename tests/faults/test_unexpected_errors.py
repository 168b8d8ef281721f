"""Whatever goes wrong inside: the caller has an errno, the log a traceback, the mount lives."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.conditions import eventually
from tests.support.images import MIB, export_image, import_image, random_bytes
from tests.support.mounts import opened

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mounting

IMAGE = "rbdfs.ceph.image:Image."
CATALOG = "rbdfs.names.catalog:Catalog."
HANDLES = "rbdfs.files.table:HandleTable."


def look_up_nothing(path: Path) -> None:
    """The kernel knows the names that are there, from a listing, and asks for others only."""
    with contextlib.suppress(FileNotFoundError):
        path.with_name("nothing").stat()


def open_and_write(path: Path) -> None:
    with opened(path, os.O_WRONLY) as file:
        os.pwrite(file, b"x", 0)


def open_and_sync(path: Path) -> None:
    with opened(path, os.O_WRONLY) as file:
        os.fsync(file)


# What meets the fault, by the method that it is in.
CALLS: dict[str, Callable[[Path], object]] = {
    f"{IMAGE}read": lambda path: path.read_bytes(),
    f"{IMAGE}write": open_and_write,
    f"{IMAGE}flush": open_and_sync,
    f"{CATALOG}find": look_up_nothing,
    f"{CATALOG}current": lambda path: os.truncate(path, MIB),
    f"{CATALOG}usage": lambda path: os.statvfs(path),
    f"{CATALOG}listing": lambda path: os.listdir(path.parent),
    "rbdfs.names.listing:Listing.item": lambda path: os.listdir(path.parent),
    f"{HANDLES}open": open_and_write,
    "rbdfs.files.table:Handle.write": open_and_write,
}
# The kernel asks for these in its own time, and nobody waits for the answer.
UNANSWERED = (
    f"{HANDLES}release",
    "rbdfs.model.inode_table:InodeTable.forget",
)


@pytest.fixture
def image(ceph: Ceph, image_name: str) -> str:
    """An image in the pool `rbd`, whose usage the cluster knows."""
    import_image(ceph, f"rbd/{image_name}", random_bytes(MIB))
    return image_name


def program(control: Path, targets: list[str]) -> list[str]:
    control.write_text("")
    return [sys.executable, "-m", "tests.support.faults", str(control), ",".join(targets)]


def test_unexpected_exception_is_an_io_error(
    ceph: Ceph, image: str, mounting: Mounting, tmp_path: Path
) -> None:
    control = tmp_path / "control"
    with mounting(
        "rbd", "-o", "datapath=python", program=program(control, list(CALLS)), lifetime_s=20
    ) as mount:
        path = mount.file(image)
        for target, call in CALLS.items():
            control.write_text(target)
            with pytest.raises(OSError) as failure:  # noqa: PT011 (the errno is checked below)
                call(path)
            assert failure.value.errno == errno.EIO, target
            control.write_text("")
            call(path)
            assert mount.alive, target
            mount.expect_log(rf"(?s) ERROR .*Traceback.*injected into {re.escape(target)}")
        assert path.read_bytes() == b"x" + random_bytes(MIB)[1:]
    assert export_image(ceph, f"rbd/{image}") == b"x" + random_bytes(MIB)[1:]


@pytest.mark.parametrize("target", UNANSWERED)
def test_unexpected_exception_that_nobody_waits_for(
    ceph: Ceph, image: str, mounting: Mounting, tmp_path: Path, target: str
) -> None:
    control = tmp_path / "control"
    with mounting(
        "rbd", "-o", "datapath=python", program=program(control, [target]), lifetime_s=20
    ) as mount:
        control.write_text(target)
        path = mount.file(image)
        assert path.read_bytes() == random_bytes(MIB)
        ceph.rbd("mv", f"rbd/{image}", f"rbd/{image}-new")
        # The kernel drops the old name, and with it the inode, when it finds it gone.
        eventually(lambda: not path.exists(), what="the end of the old name")
        eventually(lambda: f"injected into {target}" in mount.log_text, what="the fault")
        control.write_text("")
        mount.expect_log(rf"(?s) ERROR .*Traceback.*injected into {re.escape(target)}")
        assert mount.alive
        assert mount.file(f"{image}-new").read_bytes() == random_bytes(MIB)
