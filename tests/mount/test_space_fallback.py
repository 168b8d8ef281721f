"""The data path of pyfuse3 alone: asked for, or because the extension was not built."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import rbdfs
from tests.support.ceph import run
from tests.support.images import MIB, export_image, random_bytes
from tests.support.mounts import mounted, opened
from tests.support.space import PUNCH, data_extents, fallocate

if TYPE_CHECKING:
    from tests.support.ceph import Ceph
    from tests.support.mounts import Mounting

SIZE = 9 * MIB + 1234
PACKAGE = Path(rbdfs.__file__).parent


@pytest.fixture
def program(tmp_path: Path) -> list[str]:
    """rbdfs as an installation has it whose extension was not built."""
    shutil.copytree(
        PACKAGE, tmp_path / "installed" / "rbdfs", ignore=shutil.ignore_patterns("*.so")
    )
    main = "import sys; from rbdfs.cli import main; sys.exit(main())"
    # -P: not from the directory that the tests run in.
    return ["env", f"PYTHONPATH={tmp_path}/installed", sys.executable, "-P", "-c", main]


@pytest.fixture
def spec(ceph: Ceph, pool: str, image_name: str) -> str:
    spec = f"{pool}/{image_name}"
    ceph.rbd("import", "--no-progress", "-", spec, input=random_bytes(SIZE))
    ceph.rbd("snap", "create", "--no-progress", f"{spec}@s")
    return spec


def data_paths(log: str) -> list[str]:
    return [line.rpartition(" ")[2] for line in log.splitlines() if "data path: " in line]


def test_one_line_says_which(mounting: Mounting, pool: str) -> None:
    for options, data_path in (
        ([], "native"),
        (["-o", "datapath=native"], "native"),
        (["-o", "datapath=python"], "python"),
    ):
        if "datapath=python" in mounting.options and not options:
            continue
        with mounting(pool, *options) as mount:
            assert mount.alive
        assert data_paths(mount.log_text) == [data_path]


@pytest.mark.parametrize("built", [True, False], ids=["asked-for", "not-built"])
def test_what_pyfuse3_can_do_works(
    ceph: Ceph,
    pool: str,
    spec: str,
    image_name: str,
    mounting: Mounting,
    program: list[str],
    tmp_path: Path,
    built: bool,
) -> None:
    options = ["-o", "datapath=python"] if built else []
    with mounting(pool, *options, program=() if built else program) as mount:
        path, snap = mount.file(image_name), mount.file(f"{image_name}@s")
        with opened(path, os.O_RDWR) as file:
            os.pwrite(file, b"new", 4 * MIB - 1)
            os.fsync(file)
            assert os.pread(file, 5, 4 * MIB - 2)[1:4] == b"new"
            # What it cannot do is refused as the kernel refuses it, and nothing is claimed a hole.
            with pytest.raises(OSError, match="fallocate") as refused:
                fallocate(file, PUNCH, 0, MIB)
            assert refused.value.errno == errno.EOPNOTSUPP
            assert data_extents(file) == [(0, SIZE)]
        for sparse in ("auto", "always"):
            run("cp", f"--sparse={sparse}", str(snap), str(tmp_path / "copy"))
            assert (tmp_path / "copy").read_bytes() == random_bytes(SIZE)
        # Through the page cache of the kernel, as copy_file_range is not there.
        run("dd", f"if={snap}", f"of={path}", "bs=1M", "conv=notrunc,fsync", "status=none")
    # The log is written by a thread of its own: all of it is there at the end.
    assert data_paths(mount.log_text) == ["python"]
    assert export_image(ceph, spec) == random_bytes(SIZE)


def test_native_is_refused_where_it_was_not_built(
    mounting: Mounting, pool: str, program: list[str]
) -> None:
    mountpoint = mounting.mountpoint()
    command = [*program, *mounting.command(pool, mountpoint, "-o", "datapath=native")[1:]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20.0)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == ("rbdfs: the native data path was not built (contrib/setup builds it)\n")
    assert not mounted(mountpoint)
