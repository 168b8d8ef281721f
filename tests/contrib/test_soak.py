"""contrib/soak: a short run of it finds nothing, ends by itself and leaves nothing behind."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.conditions import eventually
from tests.support.mounts import processes_naming

if TYPE_CHECKING:
    from tests.support.ceph import Ceph

SCRIPT = Path(__file__).resolve().parents[2] / "contrib" / "soak"
SECONDS = float(os.environ.get("RBDFS_SOAK_SECONDS", "60"))
# An episode that has begun is played to its end, and a finding of a hang takes its time.
LONGEST_S = SECONDS + 150
FIXED_SEED = 1

pytestmark = [pytest.mark.slow, pytest.mark.timeout(LONGEST_S + 30)]


def soak(*arguments: str, directory: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Its mounts are made in *directory*."""
    return subprocess.run(
        [SCRIPT, *arguments],
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
        env=os.environ if directory is None else os.environ | {"TMPDIR": str(directory)},
    )


@pytest.fixture
def able() -> None:
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        pytest.skip("needs root and /dev/fuse")
    if shutil.which("sfdisk") is None:
        pytest.skip("sfdisk is not installed (contrib/setup installs it)")


@pytest.mark.parametrize("kind", ["fixed", "today"])
def test_nothing_is_found(ceph: Ceph, able: None, tmp_path: Path, kind: str) -> None:
    """Half of RBDFS_SOAK_SECONDS with a seed that is always the same, half with one of today."""
    seed = FIXED_SEED if kind == "fixed" else int(time.strftime("%Y%m%d"))
    options = [f"--seed={seed}", f"--minutes={SECONDS / 2 / 60}", f"--cluster={ceph.dir}"]
    options += ["--bound=90", "--patience=4", "--shrink=30"]
    # Other runs on this host are none of its.
    directory = tmp_path / "mounts"
    directory.mkdir()
    done = soak(*options, f"--output={tmp_path / 'soak'}", directory=directory)
    # Shown with what fails, and by pytest -s.
    sys.stdout.write(done.stdout)
    assert done.returncode == 0, f"seed {seed}:\n{done.stdout}\n{done.stderr}"
    summary = done.stdout.splitlines()[-1]
    assert re.fullmatch(rf"soak: seed {seed}, .* operations, faults: .*; findings 0", summary)
    assert not re.search(r", 0 (episodes|operations)", summary)
    eventually(lambda: not processes_naming(str(directory)), what="the end of all its mounts")


def test_a_finding_is_told(ceph: Ceph, able: None, tmp_path: Path) -> None:
    """With a mount that refuses what the plan expects, there is a finding, and a way to it."""
    done = soak(
        "--seed=1", "--episode=1", "--minutes=2", f"--cluster={ceph.dir}", "--parts=disks",
        "--faults=none", "--users=1", "--mount-option=ro", "--shrink=5",
        f"--output={tmp_path / 'soak'}",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "FINDING wrong answer [disk]: user 0: open " in done.stdout
    assert "-> EROFS" in done.stdout
    assert "    again: contrib/soak --seed=1 " in done.stdout
    shortest = done.stdout.partition("shortest history (seen in 1 of 1 tries):\n")[2]
    assert re.search(r" user 0 on mount 0: open slot=\w+ path=\S+ flags=O_RDWR", shortest)
    assert (tmp_path / "soak" / "episode-1" / "history").exists()
    assert (tmp_path / "soak" / "episode-1" / "rbdfs-0.log").exists()


@pytest.mark.parametrize(
    "wrong", ["--faults=quake", "--parts=all", "--minutes=0", "--users=0", "--without=all"]
)
def test_a_wrong_command_line(wrong: str) -> None:
    assert soak(wrong).returncode == 2


def test_without_a_cluster(tmp_path: Path) -> None:
    done = soak(f"--cluster={tmp_path}")
    assert done.returncode == 3
    assert done.stderr == f"contrib/soak: {tmp_path} is no directory of contrib/cluster\n"
