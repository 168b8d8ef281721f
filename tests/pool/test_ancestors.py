"""What an open file was cloned from is flattened and removed: nobody reads or keeps zeros."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.support.conditions import SEEN_S, eventually
from tests.support.images import MIB, export_image, import_image, random_bytes
from tests.support.mounts import opened, opened_and_lost
from tests.support.refusals import refusal

if TYPE_CHECKING:
    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount

DATA = random_bytes(12 * MIB)
_OPENED_ANEW = "opened anew"
_DOUBT = r"WARNING .*was removed at once after it was flattened"


@pytest.fixture(params=["native", "python"])
def mount_options(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return (f"datapath={request.param}",)


@pytest.fixture
def chain(ceph: Ceph, pool: str, image_name: str) -> tuple[str, str, str]:
    """Three images: one with data, and each other one a clone of snapshot `s` of the one before."""
    names = (f"{image_name}-a", f"{image_name}-b", f"{image_name}-c")
    import_image(ceph, f"{pool}/{names[0]}", DATA)
    for parent, child in zip(names, names[1:], strict=False):
        ceph.rbd("snap", "create", "--no-progress", f"{pool}/{parent}@s")
        ceph.rbd("clone", "--rbd-default-clone-format=2", f"{pool}/{parent}@s", f"{pool}/{child}")
    ceph.rbd("snap", "create", "--no-progress", f"{pool}/{names[1]}@night")
    return names


def _remove(ceph: Ceph, pool: str, name: str) -> None:
    ceph.rbd("snap", "rm", "--no-progress", f"{pool}/{name}@s")
    ceph.rbd("rm", "--no-progress", f"{pool}/{name}")


def _flatten(ceph: Ceph, pool: str, name: str) -> None:
    ceph.rbd("flatten", "--no-progress", f"{pool}/{name}")


def _seen_anew(mount: Mount, count: int) -> None:
    eventually(
        lambda: mount.log_text.count(_OPENED_ANEW) >= count,
        SEEN_S,
        "a new opening",
    )


def test_writer_whose_grandparent_goes(
    ceph: Ceph, pool: str, chain: tuple[str, str, str], mount: Mount
) -> None:
    """librbd keeps the parent's object map: it would go on reading what is there no more."""
    first, second, third = chain
    with (
        opened(mount.file(third), os.O_RDWR) as file,
        opened(mount.file(third), os.O_RDONLY | os.O_DIRECT) as direct,
    ):
        assert os.pread(file, 4096, 0) == DATA[:4096]
        _flatten(ceph, pool, second)
        _seen_anew(mount, 1)
        _remove(ceph, pool, first)
        assert os.pread(direct, MIB, 0) == DATA[:MIB]
        assert os.pread(file, 12 * MIB, 0) == DATA
        # Each makes a whole object of what the parents had.
        for off in (4096, 4 * MIB + 4096, 8 * MIB + 4096):
            assert os.pwrite(file, b"new" * 1000, off) == 3000
        os.fsync(file)
    expected = bytearray(DATA)
    for off in (4096, 4 * MIB + 4096, 8 * MIB + 4096):
        expected[off : off + 3000] = b"new" * 1000
    assert export_image(ceph, f"{pool}/{third}") == bytes(expected)


def test_reader_that_was_opened_just_before(
    ceph: Ceph, pool: str, chain: tuple[str, str, str], mount: Mount
) -> None:
    """The first look comes when the parent is another one already: what counts is the opening."""
    first, second, third = chain
    with opened(mount.file(third), os.O_RDONLY) as file:
        _flatten(ceph, pool, second)
        _seen_anew(mount, 1)
        _remove(ceph, pool, first)
        assert os.pread(file, 12 * MIB, 0) == DATA


def test_zeros_are_not_kept(
    ceph: Ceph, pool: str, chain: tuple[str, str, str], mount: Mount
) -> None:
    """What was read of a snapshot before the look leaves the page cache."""
    first, second, _ = chain
    path = mount.file(f"{second}@night")
    mount.expect_log(_DOUBT)
    with opened_and_lost(path, os.O_RDONLY) as file:
        assert os.pread(file, 4096, 0) == DATA[:4096]
        _flatten(ceph, pool, second)
        ceph.rbd("snap", "rm", "--no-progress", f"{pool}/{first}@s")
        ceph.rbd("rm", "--no-progress", f"{pool}/{first}")
        # May be zeros, of what is gone.
        os.pread(file, 12 * MIB, 0)
        _seen_anew(mount, 1)
        eventually(lambda: os.pread(file, 12 * MIB, 0) == DATA, SEEN_S, "the data")
    assert path.read_bytes() == DATA


@pytest.mark.parametrize(
    ("which", "seen"),
    [("{1}@night", False), ("{1}@night", True), ("{1}", False), ("{2}", False), ("{2}", True)],
)
def test_zeros_are_told_by_close(
    ceph: Ceph, pool: str, chain: tuple[str, str, str], mount: Mount, which: str, seen: bool
) -> None:
    """A backup that was reading must not end well: before the look, and after it."""
    first, second, _ = chain
    file = os.open(mount.file(which.format(*chain)), os.O_RDONLY)
    os.pread(file, 4096, 0)
    _flatten(ceph, pool, second)
    _remove(ceph, pool, first)
    mount.allow_log(_DOUBT, "WARNING .*are lost: .*parent .* is gone")
    right = os.pread(file, 12 * MIB, 0) == DATA
    if seen:
        _seen_anew(mount, 1)
    told = refusal(lambda: os.close(file))
    assert told == "ESTALE" or (right and told == "no error")


def test_what_is_still_there_was_read_right(
    ceph: Ceph, pool: str, chain: tuple[str, str, str], mount: Mount
) -> None:
    """A flatten alone is no error, neither before it is seen nor after that."""
    _, second, third = chain
    first_to_close = os.open(mount.file(third), os.O_RDONLY)
    file = os.open(mount.file(third), os.O_RDONLY)
    _flatten(ceph, pool, second)
    assert os.pread(file, 12 * MIB, 0) == DATA
    assert refusal(lambda: os.close(first_to_close)) == "no error"
    _seen_anew(mount, 1)
    assert refusal(lambda: os.close(file)) == "no error"
