"""contrib/tour: it shows what README says, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.ceph import run
from tests.support.conditions import eventually
from tests.support.mounts import processes_naming

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECKOUT = Path(__file__).resolve().parents[2]
SCRIPT = CHECKOUT / "contrib" / "tour"
# What is another one each time, and how wide a table is with the directory's name in it.
VARYING = (
    (r"\w{3} [ \d]\d (\d\d:\d\d| \d{4})", "DATE"),
    (r"^[0-9a-f]{10,16} (?=\S+$)", "ID "),
    (r"^total \d+$", "total"),
    # As many as this mke2fs makes of its own.
    (r"\d+/(\d+) files (.*), \d+/(\d+) blocks$", r"\1 files \2, \3 blocks"),
    (r"[ \t]+$", ""),
    (r" +", " "),
)

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


def essential(text: str) -> list[str]:
    """The lines of what the tour prints, without what is another one each time."""
    for pattern, replacement in VARYING:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    return [line for line in text.splitlines() if line]


def shown_in_readme() -> str:
    """The console blocks of README's tour, one after the other."""
    section = (CHECKOUT / "README.md").read_text().partition("\n## A tour\n")[2]
    blocks = re.findall(r"```console\n(.*?)```\n", section.partition("\n## ")[0], re.DOTALL)
    assert blocks
    return "\n".join(blocks)


def test_it_shows_what_the_readme_says(directory: Path) -> None:
    done = subprocess.run(
        [SCRIPT, "--no-setup", "--dir", directory], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    conf = f"{directory}/cluster/ceph.conf"
    shown = done.stdout.replace(conf, "$PWD/.tour/cluster/ceph.conf")
    assert essential(shown.replace(str(directory), ".tour")) == essential(shown_in_readme())
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
