"""`rbdfs map` tells of a file what qemu-img does, of the file and of the image."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.conditions import SEEN_S, eventually
from tests.support.images import MIB, open_image
from tests.support.mounts import RBDFS, TIMEOUT_S

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount

pytestmark = pytest.mark.usefixtures("native")


def output(*command: str | Path, **environment: str) -> str:
    return subprocess.run(
        command,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    ).stdout


def qemu_map(name: str | Path) -> str:
    return output("qemu-img", "map", "--output=json", "-f", "raw", name)


@pytest.fixture
def path(ceph: Ceph, pool: str, image_name: str, mount: Mount) -> Path:
    """A file of 21 MiB in objects of 4 MiB, with data at its beginning, its end, and between."""
    ceph.rbd("create", "--size=21M", f"{pool}/{image_name}")
    with open_image(ceph, pool, image_name) as image:
        for offset in (0, 9 * MIB, 20 * MIB + 1):
            image.write(b"x", offset)
    return mount.file(image_name)


def test_as_qemu_has_it(ceph: Ceph, pool: str, path: Path, mount: Mount) -> None:
    told = output(RBDFS, "map", "--json", path)
    assert told == qemu_map(path)
    assert told == qemu_map(f"rbd:{pool}/{path.name}:conf={ceph.conf}")
    assert [each["data"] for each in json.loads(told)] == [True, False, True, False, True]
    ceph.rbd("snap", "create", "--no-progress", f"{pool}/{path.name}@s")
    with open_image(ceph, pool, path.name) as image:
        image.discard(0, 4 * MIB)
    snap = mount.file(f"{path.name}@s")
    eventually(snap.exists, SEEN_S, "the snapshot")
    assert output(RBDFS, "map", "--json", snap) == told
    eventually(lambda: output(RBDFS, "map", "--json", path) != told, SEEN_S, "the discard")
    assert output(RBDFS, "map", "--json", path) == qemu_map(path)


def test_a_clone_and_an_empty_image(ceph: Ceph, pool: str, path: Path, mount: Mount) -> None:
    spec = f"{pool}/{path.name}"
    ceph.rbd("snap", "create", "--no-progress", f"{spec}@s")
    ceph.rbd("clone", "--rbd-default-clone-format=2", f"{spec}@s", f"{spec}-b")
    ceph.rbd("create", "--size=0", f"{spec}-empty")
    for name in ("b", "empty"):
        told = output(RBDFS, "map", "--json", mount.file(f"{path.name}-{name}"))
        assert told == qemu_map(mount.file(f"{path.name}-{name}"))
        assert json.loads(told)


def test_a_table_and_a_drawing(path: Path) -> None:
    lines = [line.split() for line in output(RBDFS, "map", path).splitlines()]
    assert lines[0] == ["START", "LENGTH", "KIND"]
    assert lines[1] == ["0", str(4 * MIB), "4", "MiB", "data"]
    assert lines[5] == [str(20 * MIB), str(MIB), "1", "MiB", "data"]
    assert lines[6][:7] == ["9", "MiB", f"({9 * MIB}", "bytes)", "of", "data", "in"]
    drawn = output(RBDFS, "map", "--draw", path, LC_ALL="C.UTF-8", COLUMNS="80").splitlines()
    assert drawn[0] == "       0 B  " + "█" * 64
    assert drawn[1] == "     4 MiB  " + "·" * 64
    assert drawn[-1] == "· no data  ░▒▓ some  █ data; each is 64 KiB"
    plain = output(RBDFS, "map", "--draw", path, LC_ALL="C", COLUMNS="80")
    assert plain.isascii()
    assert len(plain.splitlines()) == len(drawn) == 7


def test_extents_are_told_as_they_are_found(ceph: Ceph, pool: str, mount: Mount) -> None:
    """A file of 100 TiB, and one of many extents, whose reader goes away."""
    ceph.rbd("create", "--size=100T", f"{pool}/huge")
    with open_image(ceph, pool, "huge") as image:
        image.write(b"x", 50 << 40)
    told = json.loads(output(RBDFS, "map", "--json", mount.file("huge")))
    assert [(each["start"], each["length"]) for each in told if each["data"]] == [
        (50 << 40, 4 << 20)
    ]
    ceph.rbd("create", "--size=40M", "--object-size=4K", f"{pool}/many")
    with open_image(ceph, pool, "many") as image:
        for offset in range(0, 4 * MIB, 8192):
            image.write(b"x", offset)
    command = f"{RBDFS} map {mount.file('many')} | head -3"
    assert (
        len(output("bash", "-o", "pipefail", "-c", f"({command}) || test $? = 141").splitlines())
        == 3
    )
    told = json.loads(output(RBDFS, "map", "--json", mount.file("many")))
    assert len(told) == 1024


def test_refusals(mount: Mount, path: Path, tmp_path: Path) -> None:
    other = tmp_path / "file"
    other.touch()
    for arguments, code, message in (
        ([other], 1, "is on no mount of rbdfs"),
        ([mount.path], 1, "is no regular file"),
        ([mount.file("missing")], 1, "No such file"),
        ([], 2, "FILE missing"),
        ([path, path], 2, "too many arguments"),
        (["--json", "--draw", path], 2, "--json and --draw"),
        (["--drew", path], 2, "did you mean --draw?"),
    ):
        done = subprocess.run(
            [RBDFS, "map", *arguments], capture_output=True, text=True, timeout=TIMEOUT_S
        )
        assert (done.returncode, done.stderr.count("\n")) == (code, 1)
        assert message in done.stderr
