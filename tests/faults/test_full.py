"""Pools without room, for who would rather fail than wait: -o abort_on_full."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.support.conditions import eventually
from tests.support.images import MIB, export_image, import_image, random_bytes
from tests.support.mounts import opened
from tests.support.quota import pool_with_a_quota
from tests.support.refusals import refusal

if TYPE_CHECKING:
    from tests.support.ceph import Ceph
    from tests.support.mounts import Mounting

BLOCK = 4096
both_data_paths = pytest.mark.parametrize("mount_options", ["native", "python"], indirect=True)


def write(file: int, data: bytes, off: int) -> str:
    """Write until the pages of the kernel are written, too."""

    def write_and_sync() -> None:
        assert os.pwrite(file, data, off) == len(data)
        os.fsync(file)

    return refusal(write_and_sync)


def write_until(expected: str, file: int, data: bytes, off: int) -> None:
    """The client learns of the new map from the OSD, or from the mon."""
    outcomes: Counter[str] = Counter()

    def attempt() -> bool:
        outcome = write(file, data, off)
        outcomes[outcome] += 1
        return outcome == expected

    try:
        eventually(attempt, 60, what=expected)
    except AssertionError as exc:
        raise AssertionError(f"{exc}: {outcomes}") from None


@both_data_paths
def test_full_pool(ceph: Ceph, pool: str, image_name: str, mounting: Mounting) -> None:
    full = f"full-{image_name}"
    ceph.rbd("create", "--size=16M", f"{pool}/{image_name}")
    with pool_with_a_quota(ceph, full) as set_quota:
        data = bytearray(16 * MIB)
        data[:MIB] = random_bytes(MIB)
        import_image(ceph, f"{full}/vm", bytes(data))
        ceph.rbd("create", "--size=1M", f"{full}/unused")
        with (
            mounting(None, "-o", "abort_on_full,manage") as mount,
            opened(mount.file(f"{full}/vm"), os.O_RDWR) as file,
            opened(mount.file(f"{pool}/{image_name}"), os.O_RDWR) as other,
        ):
            assert write(file, b"a" * BLOCK, 8 * MIB) == "no error"
            data[8 * MIB : 8 * MIB + BLOCK] = b"a" * BLOCK
            set_quota(1)
            write_until("ENOSPC", file, b"b" * BLOCK, 12 * MIB)
            assert write(file, b"b" * MIB, 9 * MIB) == "ENOSPC"
            # What takes no room goes on.
            assert write(file, b"c" * BLOCK, 0) == "no error"
            data[:BLOCK] = b"c" * BLOCK
            assert os.pread(file, MIB, 0) == data[:MIB]
            assert write(other, b"d" * BLOCK, 12 * MIB) == "no error"
            # An image that was not open yet can be, and none can be made.
            with opened(mount.file(f"{full}/unused"), os.O_RDWR) as unused:
                assert write(unused, b"e" * BLOCK, 0) == "ENOSPC"
            new = mount.file(f"{full}/new")
            assert refusal(lambda: os.open(new, os.O_CREAT | os.O_WRONLY)) == "ENOSPC"
            assert mount.alive
            set_quota(0)
            write_until("no error", file, b"f" * MIB, 12 * MIB)
            data[12 * MIB : 13 * MIB] = b"f" * MIB
        # What was refused may not have come later, nor in part.
        begin, end = 9 * MIB, 10 * MIB
        found = export_image(ceph, f"{full}/vm")
        assert found[:begin] + found[end:] == data[:begin] + data[end:]
        assert set(found[begin:end]) <= {0, ord("b")}
    assert export_image(ceph, f"{pool}/{image_name}")[12 * MIB :][:BLOCK] == b"d" * BLOCK


@both_data_paths
def test_full_data_pool(ceph: Ceph, pool: str, image_name: str, mounting: Mounting) -> None:
    full = f"full-{image_name}"
    with pool_with_a_quota(ceph, full) as set_quota:
        ceph.rbd("create", "--size=8M", f"--data-pool={full}", f"{pool}/{image_name}")
        with mounting(pool, "-o", "abort_on_full") as mount:
            with opened(mount.file(image_name), os.O_RDWR) as file:
                assert write(file, b"a" * BLOCK, 0) == "no error"
                set_quota(1)
                write_until("ENOSPC", file, b"b" * BLOCK, 4 * MIB)
                assert os.pread(file, BLOCK, 0) == b"a" * BLOCK
                set_quota(0)
                write_until("no error", file, b"c" * BLOCK, 4 * MIB)
            assert mount.alive
        ceph.rbd("rm", "--no-progress", f"{pool}/{image_name}")


@pytest.mark.usefixtures("native")
def test_copy_into_a_full_pool(ceph: Ceph, image_name: str, mounting: Mounting) -> None:
    """What programs tell their users: the words of the errno."""
    full = f"full-{image_name}"
    with pool_with_a_quota(ceph, full) as set_quota:
        import_image(ceph, f"{full}/from", random_bytes(MIB))
        ceph.rbd("create", "--size=8M", f"{full}/to")
        with mounting(full, "-o", "abort_on_full") as mount:
            set_quota(1)
            command = ["dd", f"if={mount.file('from')}", f"of={mount.file('to')}", "bs=64k"]
            eventually(
                lambda: (
                    b"No space left on device"
                    in subprocess.run(
                        [*command, "conv=notrunc,fsync"], stderr=subprocess.PIPE
                    ).stderr
                ),
                what="dd to fail",
            )
            assert mount.file("from").read_bytes() == random_bytes(MIB)
            assert mount.alive
