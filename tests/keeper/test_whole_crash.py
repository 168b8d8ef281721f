"""Keeper and server are killed: the next mount on the same place goes on at once."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import pytest

from rbdfs.config.runtime_directory import runtime_directory
from rbdfs.keeper.remains import Remains, remains_of
from tests.support.images import MIB, export_image, import_image, random_bytes
from tests.support.mounts import opened, opened_and_lost
from tests.support.refusals import refusal
from tests.support.servers import kill_keeper_and_server

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mounting


@pytest.mark.usefixtures("native")
def test_writes_are_possible_at_once(
    ceph: Ceph, pool: str, image_name: str, mounting: Mounting
) -> None:
    """The image is not in use for the half minute that Ceph waits for a client that died."""
    import_image(ceph, f"{pool}/{image_name}", random_bytes(MIB))
    done = []
    with mounting(pool, exit_code=None) as mount:
        # It may be killed a moment later than its keeper.
        mount.allow_log("the keeper is gone")
        path = mount.file(image_name)
        # close(2) has nobody to tell any more.
        with contextlib.suppress(OSError), opened(path, os.O_RDWR | os.O_DSYNC) as file:
            os.pwrite(file, b"before", 0)
            kill_keeper_and_server(mount)
            assert refusal(lambda: os.listdir(mount.path)) == "ENOTCONN"
            with mounting(pool, mountpoint=mount.path) as again:
                again.expect_log(r"WARNING .*a mount died here as a whole")
                with opened(again.file(image_name), os.O_RDWR | os.O_DSYNC) as anew:
                    os.pwrite(anew, b"after", 512)
                done.append("again")
    assert done == ["again"]
    data = export_image(ceph, f"{pool}/{image_name}")
    assert (data[:6], data[512:517]) == (b"before", b"after")


@pytest.mark.usefixtures("native")
def test_what_it_had_locked_is_removed_and_moved(
    ceph: Ceph, pools: tuple[str, str], image_name: str, mounting: Mounting
) -> None:
    """The locks stay on the images until somebody opens these for writing."""
    hdd, ssd = pools
    specs = [f"{hdd}/{image_name}-1", f"{hdd}/{image_name}-2"]
    for spec in specs:
        import_image(ceph, spec, random_bytes(MIB))
    with mounting(None, exit_code=None) as mount, contextlib.ExitStack() as files:
        mount.allow_log("the keeper is gone")
        for spec in specs:
            flags = os.O_RDWR | os.O_DSYNC
            os.pwrite(files.enter_context(opened_and_lost(mount.file(spec), flags)), b"new", 0)
        kill_keeper_and_server(mount)
        with mounting(None, "-o", "manage", mountpoint=mount.path) as again:
            again.expect_log(r"WARNING .*a mount died here as a whole")
            again.allow_log("`rbd migration (execute|commit) ")
            assert all(ceph.lock_ids(spec) for spec in specs)
            again.file(specs[0]).unlink()
            moved = again.file(specs[1]).rename(again.file(f"{ssd}/{image_name}"))
            assert moved.read_bytes() == b"new" + random_bytes(MIB)[3:]


def test_remains_are_found_when_nobody_keeps_them(tmp_path: Path) -> None:
    place = str(tmp_path)
    alive, dead, other = Remains(place), Remains(place), Remains("/elsewhere")
    alive.keep("0:1001", ["10.0.0.1:0/1"])
    dead.keep("0:1002", ["10.0.0.1:0/2", "10.0.0.1:0/22"])
    dead.update(["10.0.0.1:0/3"])
    other.keep("0:1003", ["10.0.0.1:0/4"])
    directory = runtime_directory()
    assert directory is not None
    try:
        with remains_of(place) as found:
            assert found == []
        os.close(dead._descriptor)
        # Beside a mount elsewhere, which looks for its own.
        with (
            contextlib.suppress(ConnectionError),
            remains_of("/neither"),
            remains_of(place) as found,
        ):
            assert found == ["10.0.0.1:0/3"]
            raise ConnectionError
        with remains_of(place) as found:
            assert found == ["10.0.0.1:0/3"]
        with remains_of(place) as found:
            assert found == []
        (directory / "0-1004.clients").write_text("[1, 2")
        with remains_of(place) as found:
            assert found == []
    finally:
        alive.close()
        other.close()
        (directory / "0-1004.clients").unlink(missing_ok=True)
    assert not list(directory.glob("0-100[1-4].clients"))
