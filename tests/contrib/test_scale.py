"""contrib/bench scale, small: what it prints and writes, and its verdict."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from benchmarks.scale.growth import growths
from benchmarks.scale.vitals import Process

if TYPE_CHECKING:
    from tests.support.ceph import Ceph

SCRIPT = Path(__file__).resolve().parents[2] / "contrib" / "bench"
TIMEOUT_S = 120.0
SMALL = ("--images=30", "--snapshots=3", "--open=3", "--idle=0.5", "--repetitions=20")
# So few repetitions are no more than a beginning, in which caches fill.
TOLERANCE = "--tolerance=20"
ROWS = [("images", 5), ("snapshots", 5), ("open", 3), ("repeat", 2)]
HEALTHY = Process(rss_mib=70.0, fds=40, threads=30)


def scale(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPT, "scale", *arguments], capture_output=True, text=True, timeout=TIMEOUT_S
    )


@pytest.fixture
def able() -> None:
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        pytest.skip("needs root and /dev/fuse")


@pytest.mark.slow
@pytest.mark.usefixtures("able")
def test_every_scene_is_played(ceph: Ceph, tmp_path: Path) -> None:
    output = tmp_path / "scale.json"
    done = scale(*SMALL, TOLERANCE, f"--cluster={ceph.dir}", f"--json={output}")
    assert done.returncode == 0, done.stdout + done.stderr
    document: dict[str, Any] = json.loads(output.read_text())
    scenes = document["scenes"]
    assert [(scene["name"], len(scene["rows"])) for scene in scenes] == ROWS
    for row in (row for scene in scenes for row in scene["rows"]):
        assert row["lag_ms"] > 0
        for before, after in (row["server"], row["keeper"]):
            assert min(*before.values(), *after.values()) > 0
            assert before["rss_mib"] < 1000
    found = {(growth["process"], growth["figure"]): growth for growth in scenes[-1]["growths"]}
    assert len(found) == 6
    assert not any(growth["grows"] for growth in found.values())
    assert len(scenes[-1]["samples"]) == 20
    table = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(table) == 2 + sum(count for _, count in ROWS)
    assert "* repeat: does not grow " in done.stdout


@pytest.mark.slow
@pytest.mark.usefixtures("able")
def test_growth_is_a_failure(ceph: Ceph) -> None:
    """Whatever it is: a fall is what this tolerance asks for."""
    done = scale("repeat", "--repetitions=5", "--tolerance=-1000", f"--cluster={ceph.dir}")
    assert done.returncode == 1, done.stderr
    assert "* repeat: GROWS " in done.stdout


def test_what_grows_is_told() -> None:
    keeper = Process(20.0, 10, 2)
    samples = [(HEALTHY, keeper)] * 20
    samples += [
        (Process(70.0 + number / 20, 40 + number // 50, 30), keeper) for number in range(80)
    ]
    growing = [growth for growth in growths(samples, 2.0) if growth.grows]
    assert [(each.process, each.figure) for each in growing] == [
        ("server", "rss_mib"),
        ("server", "fds"),
    ]


def test_what_comes_and_goes_does_not_grow() -> None:
    other = Process(rss_mib=71.9, fds=41, threads=33)
    samples = [(other if number % 3 == 0 else HEALTHY, HEALTHY) for number in range(100)]
    assert not [growth for growth in growths(samples, 2.0) if growth.grows]


def test_threads_that_are_left_grow_and_a_late_one_of_a_pool_does_not() -> None:
    late = [Process(70.0, 40, 30 + (number >= 18)) for number in range(20)]
    left = [Process(70.0, 40, 30 + number // 4) for number in range(20)]
    growing = growths(list(zip(late, left, strict=True)), 2.0)
    assert [(each.process, each.figure) for each in growing if each.grows] == [
        ("keeper", "threads")
    ]


@pytest.mark.parametrize("wrong", ["everything", "--images=0", "--open=x"])
def test_a_wrong_command_line(wrong: str) -> None:
    assert scale(wrong).returncode == 2


def test_without_a_cluster(tmp_path: Path) -> None:
    done = scale(f"--cluster={tmp_path}")
    assert done.returncode == 1
    assert done.stderr == f"contrib/bench: {tmp_path} is no directory of contrib/cluster\n"
