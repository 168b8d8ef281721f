"""contrib/tour: it shows what contrib/tour.md says, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.ceph import run
from tests.support.conditions import eventually
from tests.support.mounts import processes_naming
from tests.support.shown import console_blocks, essential

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECKOUT = Path(__file__).resolve().parents[2]
SCRIPT = CHECKOUT / "contrib" / "tour"
pytestmark = pytest.mark.cluster


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    if shutil.which("ceph-mon") is None:
        pytest.skip("ceph-mon is not installed (contrib/setup installs it)")
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        pytest.skip("needs root and /dev/fuse")
    path = tmp_path / "tour"
    yield path
    run(str(CHECKOUT / "contrib" / "cluster"), "stop", str(path / "cluster"))


def test_it_shows_what_its_page_says(directory: Path) -> None:
    done = subprocess.run(
        [SCRIPT, "--no-setup", "--dir", directory], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    conf = f"{directory}/cluster/ceph.conf"
    shown = done.stdout.replace(conf, "$PWD/.tour/cluster/ceph.conf")
    page = console_blocks((CHECKOUT / "contrib/tour.md").read_text())
    assert essential(shown.replace(str(directory), ".tour")) == essential(page)
    assert not directory.exists()
    eventually(lambda: not processes_naming(f"{directory}/"), what="the end of all processes")


def test_failure_leaves_nothing(directory: Path, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    # The cluster runs by then, and a mount.
    broken = tools / "qemu-img"
    broken.write_text("#!/bin/sh\nexit 5\n")
    broken.chmod(0o755)
    done = subprocess.run(
        [SCRIPT, "--no-setup", "--dir", directory],
        env=os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert "qemu-img create" in done.stdout.splitlines()[-1]
    assert not directory.exists()
    eventually(lambda: not processes_naming(f"{directory}/"), what="the end of all processes")
