"""`-o manage`: rename(2), also over an image, which lies in the trash then."""

from __future__ import annotations

import json
import os
import re
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.ceph import run
from tests.support.conditions import SEEN_S, eventually
from tests.support.images import MIB, export_image, import_image, open_image, random_bytes
from tests.support.mounts import opened
from tests.support.refusals import refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount, Mounting


@pytest.fixture(scope="module")
def managed(module_mounting: Mounting, pool: str) -> Iterator[Mount]:
    with module_mounting(pool, "-o", "manage=snapshots", lifetime_s=180.0) as mount:
        mount.allow_log("(is watched by|locked by|holds lock|EEXIST|exists)")
        yield mount


def trashed(ceph: Ceph, pool: str) -> list[str]:
    return [entry["name"] for entry in json.loads(ceph.rbd("trash", "ls", "--format=json", pool))]


@pytest.fixture
def two(ceph: Ceph, pool: str, managed: Mount, image_name: str) -> tuple[Path, Path]:
    """Images with `one` and, with a snapshot `s`, `two` in them."""
    new, other = managed.file(image_name), managed.file(f"{image_name}-2")
    import_image(ceph, f"{pool}/{new.name}", b"one")
    import_image(ceph, f"{pool}/{other.name}", b"two")
    ceph.rbd("snap", "create", "--no-progress", f"{pool}/{other.name}@s")
    eventually(lambda: os.path.exists(f"{other}@s"), SEEN_S, "the images")
    return new, other


def test_renamed(ceph: Ceph, pool: str, two: tuple[Path, Path]) -> None:
    new, other = two
    # With RENAME_NOREPLACE.
    run("mv", "-n", str(new), str(other))
    assert (new.read_bytes(), other.read_bytes()) == (b"one", b"two")
    run("mv", str(new), f"{new}-3")
    assert refusal(new.stat) == "ENOENT"
    assert export_image(ceph, f"{pool}/{new.name}-3") == b"one"
    assert export_image(ceph, f"{pool}/{other.name}") == b"two"


def test_what_is_renamed_over_lies_in_the_trash(
    ceph: Ceph, pool: str, managed: Mount, two: tuple[Path, Path]
) -> None:
    new, other = two
    image_id = json.loads(ceph.rbd("info", "--format=json", f"{pool}/{other.name}"))["id"]
    with opened(other, os.O_RDWR) as writer, opened(new, os.O_RDWR) as renamed:
        os.rename(new, other)
        assert refusal(new.stat) == "ENOENT"
        eventually(lambda: not os.path.exists(f"{other}@s"), SEEN_S, "its snapshots go with it")
        # Open files go on, wherever their image is.
        assert os.pwrite(writer, b"TWO", 0) == os.pwrite(renamed, b"ONE", 0) == 3
        assert (os.pread(writer, 3, 0), other.read_bytes()) == (b"TWO", b"ONE")
    assert trashed(ceph, pool).count(other.name) == 1
    command = f"rbd trash restore {pool}/{image_id}"
    line = f"INFO .*{pool}/{other.name} is in the trash until it is purged: {command}\n"
    eventually(lambda: re.search(line, managed.log_text), what="the line that says until when")
    eventually(lambda: command in managed.log_text, what="the command that brings it back")
    ceph.rbd(*command.split()[1:], "--image", f"{other.name}-back")
    assert export_image(ceph, f"{pool}/{other.name}-back") == b"TWO"
    assert export_image(ceph, f"{pool}/{other.name}-back@s") == b"two"
    assert export_image(ceph, f"{pool}/{other.name}") == b"ONE"


def test_what_cannot_be_renamed_over(
    ceph: Ceph, pool: str, managed: Mount, two: tuple[Path, Path]
) -> None:
    """Neither name changes its image, and nothing stays in the trash."""
    new, other = two
    os.link(other, f"{other}@t")
    for source, target, code in (
        # No trash keeps a snapshot.
        (f"{other}@s", f"{other}@t", "EEXIST"),
        (new, f"{other}@t", "EPERM"),
    ):
        assert refusal(partial(os.rename, source, target)) == code
    with open_image(ceph, pool, other.name) as writer:
        assert refusal(lambda: os.rename(new, other)) == "EBUSY"
        assert writer.write(b"TWO", 0) == 3
    # What is locked cannot be renamed: the other one need not go to the trash for that.
    ceph.rbd("lock", "add", f"{pool}/{new.name}", "mine")
    assert refusal(lambda: os.rename(new, other)) == "EBUSY"
    assert f"{pool}/{other.name} is in the trash" not in managed.log_text
    assert (new.read_bytes(), other.read_bytes()) == (b"one", b"TWO")
    assert Path(f"{other}@s").read_bytes() == b"two"
    assert not {new.name, other.name} & set(trashed(ceph, pool))


def test_until_when_what_is_removed_can_be_had_back(
    ceph: Ceph, pool: str, mounting: Mounting, image_name: str
) -> None:
    """What the cluster is configured with, or -o: `rbd trash purge` leaves it for that long."""
    import_image(ceph, f"{pool}/{image_name}", b"content")
    setting = "rbd_move_to_trash_on_remove_expire_seconds=3600"
    with mounting(pool, "-o", f"manage,{setting}") as mount:
        begun = time.time()
        mount.file(image_name).unlink()
        line = rf"{pool}/{image_name} is in the trash at least until (.*): (rbd trash restore .*)\n"
        (found,) = re.findall(line, mount.log_text)
        until = time.mktime(time.strptime(found[0], "%Y-%m-%d %H:%M:%S"))
        assert begun + 3599 <= until <= time.time() + 3600
        ceph.rbd("trash", "purge", "--no-progress", pool)
        ceph.rbd(*found[1].split()[1:])
    assert export_image(ceph, f"{pool}/{image_name}") == b"content"


@pytest.mark.parametrize("seconds", [4 * 10**9, 10**17])
def test_what_is_to_be_kept_for_ever_is_removed(
    ceph: Ceph, pool: str, mounting: Mounting, image_name: str, seconds: int
) -> None:
    """The log says until when the trash does keep it: no record of it has a later time."""
    import_image(ceph, f"{pool}/{image_name}", b"content")
    setting = f"rbd_move_to_trash_on_remove_expire_seconds={seconds}"
    with mounting(pool, "-o", f"manage,{setting}") as mount:
        mount.file(image_name).unlink()
        (said,) = re.findall(
            rf"{image_name} is in the trash at least until (.*): rbd", mount.log_text
        )
    (kept,) = (
        entry["status"]
        for entry in json.loads(ceph.rbd("trash", "ls", "--long", "--format=json", pool))
        if entry["name"] == image_name
    )
    # `protected until` with the time as ctime(3) writes it.
    until = time.strptime(kept.removeprefix("protected until "), "%a %b %d %H:%M:%S %Y")
    assert said == time.strftime("%Y-%m-%d %H:%M:%S", until)


def test_rsync_onto_an_image(
    ceph: Ceph, pool: str, managed: Mount, image_name: str, tmp_path: Path
) -> None:
    """It makes a file beside the old one, and renames it over that."""
    new, source = managed.file(image_name), tmp_path / "source"
    source.write_bytes(random_bytes(MIB + 1234))
    import_image(ceph, f"{pool}/{new.name}", random_bytes(2 * MIB, 7))
    eventually(new.exists, SEEN_S, "the image")
    before = ceph.rbd("ls", pool).split()
    run("rsync", "-a", str(source), str(new))
    assert new.read_bytes() == source.read_bytes()
    assert ceph.rbd("ls", pool).split() == before
    assert [name for name in trashed(ceph, pool) if new.name in name] == [new.name]
    source.write_bytes(random_bytes(MIB, 3))
    run("rsync", "-a", str(source), str(new))
    assert [name for name in trashed(ceph, pool) if new.name in name] == [new.name] * 2
