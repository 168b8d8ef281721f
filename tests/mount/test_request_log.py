"""With -d the log has a line for each request: which file, where, its end and its time."""

from __future__ import annotations

import mmap
import os
import re
from typing import TYPE_CHECKING

import pytest

from tests.support.conditions import eventually
from tests.support.images import MIB, import_image, random_bytes
from tests.support.mounts import opened
from tests.support.refusals import refusal

if TYPE_CHECKING:
    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount, Mounting


def lines(mount: Mount, spec: str) -> list[str]:
    """What was asked of a file, in order, with its result."""
    pattern = rf" DEBUG .*?\): (\w+ {re.escape(spec)}\S*(?: [^:\n]+)?: \w+) in \d+\.\d ms$"
    return [line.replace(spec, "IMAGE") for line in re.findall(pattern, mount.log_text, re.M)]


@pytest.mark.parametrize("data_path", ["native", "python"])
def test_each_request_is_told(
    ceph: Ceph, pool: str, image_name: str, mounting: Mounting, data_path: str
) -> None:
    import_image(ceph, f"{pool}/{image_name}", random_bytes(MIB))
    ceph.rbd("snap", "create", "--no-progress", f"{pool}/{image_name}@s")
    with mounting(pool, "-d", "-o", f"datapath={data_path}") as mount:
        with opened(mount.file(image_name), os.O_RDWR | os.O_DIRECT) as file:
            aligned = mmap.mmap(-1, 8192)
            assert os.pwritev(file, [aligned], 4096) == 8192
            assert os.preadv(file, [aligned], 0) == 8192
            assert os.preadv(file, [aligned], MIB) == 0
            os.fsync(file)
        assert refusal(lambda: os.open(mount.file(f"{image_name}@s"), os.O_RDWR)) == "EROFS"
        assert refusal(lambda: os.getxattr(mount.file(image_name), "user.x")) == "ENODATA"
        assert refusal(mount.file("n\x1b\ne").stat) == "ENOENT"
        spec = f"{pool}/{image_name}"
        said = eventually(
            lambda: (found := lines(mount, spec))[-1:] and "release IMAGE: ok" in found and found,
            what="the lines",
        )
        assert said
        order = ["open IMAGE: ok", "write IMAGE 4096~8192: ok", "read IMAGE 0~8192: ok"]
        order += ["fsync IMAGE: ok", "flush IMAGE: ok", "release IMAGE: ok"]
        assert [line for line in said if line in order] == order
        # Of what is no name, nothing that a terminal would obey.
        last = rf" lookup {pool}/n\\x1b\\ne: ENOENT in "
        eventually(lambda: re.search(last, mount.log_text), what=last)
        said = lines(mount, spec)
        assert "open IMAGE@s: EROFS" in said
        assert "getxattr IMAGE user.x: ENODATA" in said


@pytest.mark.usefixtures("native")
def test_errors_and_all_of_many(ceph: Ceph, pool: str, image_name: str, mounting: Mounting) -> None:
    """More than there is room for at once between C and Python."""
    count = 3000
    import_image(ceph, f"{pool}/{image_name}", random_bytes(MIB))
    with mounting(pool, "-d") as mount:
        with opened(mount.file(image_name), os.O_RDONLY) as file:
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
            for number in range(count):
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
                os.pread(file, 512, number % 256 * 4096)
        spec = f"{pool}/{image_name}"
        said = eventually(
            lambda: (found := lines(mount, spec))[-1:] == ["release IMAGE: ok"] and found,
            what="the lines",
        )
        assert said
        assert sum(line.startswith("read IMAGE ") for line in said) == count
        assert all(line.endswith(": ok") for line in said if line.startswith("read IMAGE"))


def test_nothing_of_it_without(ceph: Ceph, pool: str, image_name: str, mounting: Mounting) -> None:
    import_image(ceph, f"{pool}/{image_name}", random_bytes(MIB))
    with mounting(pool) as mount:
        assert mount.file(image_name).read_bytes() == random_bytes(MIB)
        assert "DEBUG" not in mount.log_text
