"""contrib/quickstart: it shows what README says, runs twice, and leaves nothing behind."""

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
SCRIPT = CHECKOUT / "contrib" / "quickstart"

pytestmark = pytest.mark.cluster


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Path]:
    if shutil.which("ceph-mon") is None:
        pytest.skip("ceph-mon is not installed (contrib/setup installs it)")
    path = tmp_path / "demo"
    yield path
    run(str(SCRIPT), "--dir", str(path), "stop")


def as_in_readme(printed: str, demo: Path) -> str:
    """What it prints, as if it had been called as README does."""
    printed = printed.replace(f"{demo}/cluster/ceph.conf", "$PWD/.demo/cluster/ceph.conf")
    printed = printed.replace(f" --dir {demo}", "").replace(str(demo), ".demo")
    return f"$ contrib/quickstart\n{printed}"


def test_from_start_to_stop(demo: Path) -> None:
    quickstart = (str(SCRIPT), "--no-setup", "--dir", str(demo))
    first = run(*quickstart)
    assert essential(as_in_readme(first, demo)) == essential(
        console_blocks((CHECKOUT / "README.md").read_text())
    )
    shown = [
        f"{demo}/mnt/vm1 {demo}/mnt/vm1@nightly differ",
        "\nBackups are worth what their restores are worth.\n",
        "\nsame\n",
        f"'{demo}/mnt/vm1@nightly': Read-only file system",
    ]
    # The deletion reached the image, and not the snapshot.
    assert "notes.txt" not in run("/usr/sbin/debugfs", "-R", "ls /", f"{demo}/mnt/vm1")

    again = run(*quickstart)
    assert again.startswith("# It runs already.\n")
    assert [text for text in shown if text not in again] == []

    assert "stopped" in run(*quickstart, "stop")
    assert not demo.exists()
    assert processes_naming(f"{demo}/") == []
    assert "stopped" in run(*quickstart, "stop")


def test_failure_leaves_nothing(demo: Path, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    # No snapshot can be made, when cluster, directory and image are there.
    broken = tools / "rbd"
    broken.write_text('#!/bin/sh\n[ "$1" != snap ] || exit 5\nexec /usr/bin/rbd "$@"\n')
    broken.chmod(0o755)
    done = subprocess.run(
        [SCRIPT, "--no-setup", "--dir", demo],
        env=os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "rbd snap create" in done.stdout.splitlines()[-1]
    assert not demo.exists()
    eventually(lambda: not processes_naming(f"{demo}/"), what="the end of the cluster")
