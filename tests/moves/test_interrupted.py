"""`mv` of images between pools, with a server that is killed or replaced, or a mount that ends.

No process is started while requests to a file that is open here are held back: closing the copy of
its descriptor, it would wait for them, and this process for it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import rados
import rbd

from rbdfs.keeper import command_client
from rbdfs.metadata.migration_record import list_migration_sources
from tests.support import crashes
from tests.support.conditions import eventually
from tests.support.images import MIB, export_image, import_image, random_bytes, watched
from tests.support.mounts import TIMEOUT_S, opened
from tests.support.moves import (
    BLOCK,
    DONE_S,
    ModelWriter,
    assert_nothing_left,
    make,
    migration_state,
    move,
    trash,
    wait_for_log,
    wait_for_progress,
    wait_until_done,
    whole_cluster,
)
from tests.support.quota import pool_with_a_quota
from tests.support.servers import kill_server, wait_for_server

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount, Mounting

KILLED = r"ERROR .*server \d+ was killed \(signal 9\)"
NAMED = r"WARNING .*is not complete: `rbd migration execute"
SIZE = 16 * MIB
# Of objects so small that the copy takes seconds.
SMALL = 12
STEPS = [
    ("after rbdfs.moves.moves:close_images", False),
    ("within rbdfs.moves.migration:Migration._prepare", True),
    ("after rbdfs.moves.migration:Migration._prepare", True),
    ("after rbdfs.moves.migration:Migration._prepare", False),
    ("after rbdfs.moves.moves:reopen_images", False),
    ("after rbdfs.moves.moves:reopen_images", True),
    ("before rbdfs.moves.migration:Migration.execute", True),
    ("after rbdfs.moves.migration:Migration.execute", False),
    ("before rbdfs.moves.migration:Migration.commit", True),
    ("after rbdfs.moves.migration:Migration.commit", False),
]


@pytest.fixture
def other(ceph: Ceph, pools: tuple[str, str], image_name: str) -> str:
    """An image of the first pool that stays where it is."""
    spec = f"{pools[0]}/{image_name}-other"
    import_image(ceph, spec, random_bytes(MIB, seed=2))
    return spec


def restart(mount: Mount) -> None:
    command_client.ask(str(mount.path), "restart")


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize(("step", "snapshot"), STEPS)
def test_server_killed_at_a_step(
    ceph: Ceph,
    pools: tuple[str, str],
    mounting: Mounting,
    image_name: str,
    other: str,
    step: str,
    snapshot: bool,
) -> None:
    """Who uses the image or waits for mv(1) sees a pause, and no more."""
    hdd, ssd = pools
    data = make(ceph, f"{hdd}/{image_name}", snapshot=snapshot, size=SIZE)
    before = export_image(ceph, f"{hdd}/{image_name}@before") if snapshot else b""
    control = mounting.directory / "step"
    control.write_text(step)
    program = [sys.executable, crashes.__file__, str(control)]
    with whole_cluster(mounting, program=program) as mount:
        mount.expect_log(KILLED)
        source, target = (mount.file(f"{pool}/{image_name}") for pool in pools)
        with (
            opened(mount.file(other), os.O_RDONLY | os.O_DIRECT) as beside,
            ModelWriter(source, data).running() as writer,
        ):
            move(source, target)
            wait_for_server(mount, 2)
            assert not control.exists()
            assert os.pread(beside, MIB, 0) == random_bytes(MIB, seed=2)
            wait_until_done(mount, image_name)
            writer.wait_for_more()
            assert not source.exists()
        assert target.read_bytes() == writer.data
        assert mount.file(other).read_bytes() == random_bytes(MIB, seed=2)
        assert mount.alive
    assert export_image(ceph, f"{ssd}/{image_name}") == writer.data
    if snapshot:
        assert export_image(ceph, f"{ssd}/{image_name}@before") == before
    assert_nothing_left(ceph, hdd, image_name)


def is_marked(ioctx: Any, name: str) -> bool:
    """Whether the trash has the image as a migration's source, and its header, which is later."""
    for image_id, found in list_migration_sources(ioctx).items():
        if found == name:
            with rados.ReadOpCtx() as operation:
                values, _ = ioctx.get_omap_vals_by_keys(operation, ("migration",))
                ioctx.operate_read_op(operation, f"rbd_header.{image_id}")
                return bool(list(values))
    return False


@pytest.mark.usefixtures("native")
def test_server_killed_while_it_prepares(
    ceph: Ceph, mounting: Mounting, image_name: str, other: str, pools: tuple[str, str]
) -> None:
    """Nothing was there yet: it is undone, and begun again, for mv(1) is still waiting."""
    hdd, full = pools[0], f"full-{image_name}"
    data = make(ceph, f"{hdd}/{image_name}", snapshot=True, size=SIZE)
    with pool_with_a_quota(ceph, full) as set_quota:
        import_image(ceph, f"{full}/{image_name}-other", bytes(BLOCK))
        with (
            ceph.connect() as cluster,
            cluster.open_ioctx(hdd) as ioctx,
            whole_cluster(mounting) as mount,
            ThreadPoolExecutor(1) as threads,
        ):
            mount.expect_log(KILLED)
            source, target = mount.file(f"{hdd}/{image_name}"), mount.file(f"{full}/{image_name}")
            with (
                opened(mount.file(other), os.O_RDONLY | os.O_DIRECT) as beside,
                ModelWriter(source, data).running() as writer,
            ):
                set_quota(1)
                moving = threads.submit(move, source, target)
                eventually(lambda: is_marked(ioctx, image_name), what="a source that is marked")
                kill_server(mount)
                wait_for_server(mount, 2)
                wait_for_log(mount, "not prepared: undone")
                # By a descriptor: for as long as rename(2) lasts the kernel looks up no name.
                assert os.pread(beside, MIB, 0) == random_bytes(MIB, seed=2)
                assert not moving.done()
                set_quota(0)
                moving.result(TIMEOUT_S)
                wait_until_done(mount, image_name)
                writer.wait_for_more()
            assert target.read_bytes() == writer.data
            assert mount.alive
        assert export_image(ceph, f"{full}/{image_name}") == writer.data
        assert_nothing_left(ceph, hdd, image_name)


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("end", [kill_server, restart], ids=["killed", "restarted"])
@pytest.mark.parametrize("snapshot", [False, True])
def test_another_server_while_it_copies(
    ceph: Ceph,
    pools: tuple[str, str],
    mounting: Mounting,
    image_name: str,
    other: str,
    end: Callable[[Mount], object],
    snapshot: bool,
) -> None:
    hdd, ssd = pools
    data = make(ceph, f"{hdd}/{image_name}", snapshot=snapshot, size=SIZE, order=SMALL)
    before = export_image(ceph, f"{hdd}/{image_name}@before") if snapshot else b""
    with whole_cluster(mounting) as mount:
        if end is kill_server:
            mount.expect_log(KILLED)
        elif snapshot:
            mount.expect_log(r"ERROR .*not drained", r"ended with exit code 1")
        source, target = (mount.file(f"{pool}/{image_name}") for pool in pools)
        with ModelWriter(source, data).running() as writer:
            move(source, target)
            wait_for_progress(mount)
            end(mount)
            wait_for_server(mount, 2)
            assert ": done" not in mount.log_text
            assert mount.file(other).read_bytes() == random_bytes(MIB, seed=2)
            wait_until_done(mount, image_name)
            writer.wait_for_more()
        assert target.read_bytes() == writer.data
        assert mount.alive
    assert export_image(ceph, f"{ssd}/{image_name}") == writer.data
    if snapshot:
        assert export_image(ceph, f"{ssd}/{image_name}@before") == before
    assert_nothing_left(ceph, hdd, image_name)


@pytest.mark.usefixtures("native")
def test_restarted_again_and_again_while_requests_wait_for_the_copy(
    ceph: Ceph, mounting: Mounting, image_name: str, pools: tuple[str, str]
) -> None:
    """None of the servers that end has died of what waits."""
    hdd, full = pools[0], f"full-{image_name}"
    data = make(ceph, f"{hdd}/{image_name}", snapshot=True, size=SIZE, order=SMALL)
    with pool_with_a_quota(ceph, full) as set_quota:
        import_image(ceph, f"{full}/{image_name}-other", bytes(BLOCK))
        with whole_cluster(mounting, lifetime_s=180) as mount:
            mount.expect_log(r"ERROR .*not drained", r"ended with exit code 1")
            source, target = mount.file(f"{hdd}/{image_name}"), mount.file(f"{full}/{image_name}")
            with ModelWriter(source, data).running() as writer:
                move(source, target)
                wait_for_progress(mount)
                set_quota(1)
                for generation in range(2, 7):
                    restart(mount)
                    wait_for_server(mount, generation, 60)
                assert ": done" not in mount.log_text
                set_quota(0)
                wait_until_done(mount, image_name)
                writer.wait_for_more()
            assert target.read_bytes() == writer.data
        assert export_image(ceph, f"{full}/{image_name}") == writer.data
    assert_nothing_left(ceph, hdd, image_name)


@pytest.mark.usefixtures("native")
def test_server_killed_while_it_commits(
    ceph: Ceph, pools: tuple[str, str], mounting: Mounting, image_name: str, other: str
) -> None:
    """The target is an ordinary image by then; what is left of the source goes in the end."""
    hdd, ssd = pools
    data = make(ceph, f"{hdd}/{image_name}", snapshot=True, size=SIZE)
    with ceph.connect() as cluster, cluster.open_ioctx(hdd) as ioctx:
        with rbd.Image(ioctx, image_name, read_only=True) as image:
            header = f"rbd_header.{image.id()}"
        with whole_cluster(mounting) as mount:
            mount.expect_log(KILLED)
            source, target = (mount.file(f"{pool}/{image_name}") for pool in pools)
            with ModelWriter(source, data).running() as writer:
                move(source, target)
                eventually(
                    lambda: migration_state(ceph, f"{ssd}/{image_name}") == "executed", DONE_S
                )
                # Nothing that is watched is removed.
                with watched(ioctx, header):
                    wait_for_log(mount, "copied, but the source stays for now")
                    assert migration_state(ceph, f"{ssd}/{image_name}") is None
                    kill_server(mount)
                    wait_for_server(mount, 2)
                    assert mount.file(other).read_bytes() == random_bytes(MIB, seed=2)
                    writer.wait_for_more()
                wait_until_done(mount, image_name)
                writer.wait_for_more()
            assert target.read_bytes() == writer.data
            assert mount.alive
    assert export_image(ceph, f"{ssd}/{image_name}") == writer.data
    assert_nothing_left(ceph, hdd, image_name)


@pytest.mark.parametrize(
    ("how", "snapshot", "undone"),
    [
        ("unmounted", False, False),
        ("unmounted", True, True),
        ("terminated", False, True),
        ("terminated", True, False),
    ],
)
def test_the_mount_ends_while_it_copies(
    ceph: Ceph,
    pools: tuple[str, str],
    mounting: Mounting,
    image_name: str,
    how: str,
    snapshot: bool,
    undone: bool,
) -> None:
    """What is left is a pending migration, for `rbd migration` to end as one likes."""
    hdd, ssd = pools
    data = make(ceph, f"{hdd}/{image_name}", snapshot=snapshot, size=SIZE, order=SMALL)
    before = export_image(ceph, f"{hdd}/{image_name}@before") if snapshot else b""
    with contextlib.ExitStack() as stack:
        mount = stack.enter_context(whole_cluster(mounting))
        mount.expect_log(NAMED)
        source, target = (mount.file(f"{pool}/{image_name}") for pool in pools)
        with ModelWriter(source, data).running() as writer:
            pass
        if how == "terminated":
            file = os.open(source, os.O_RDWR)
        move(source, target)
        wait_for_progress(mount)
        if how == "terminated":
            mount.signal(signal.SIGTERM)
        else:
            mount.unmount()
        assert mount.wait() == 0
        if how == "terminated":
            with pytest.raises(OSError, match="not connected"):
                os.close(file)
    assert migration_state(ceph, f"{ssd}/{image_name}") == "executing"
    with whole_cluster(mounting) as mount:
        finish = f"rbd migration execute {ssd}/{image_name}`"
        mount.expect_log(rf"WARNING .*is not complete: `{finish}")
        wait_for_log(mount, finish)
        assert mount.alive
    if undone:
        ceph.rbd("migration", "abort", "--no-progress", f"{ssd}/{image_name}")
    else:
        ceph.rbd("migration", "execute", "--no-progress", f"{ssd}/{image_name}")
        ceph.rbd("migration", "commit", "--no-progress", f"{ssd}/{image_name}")
    place, empty = (hdd, ssd) if undone else (ssd, hdd)
    assert export_image(ceph, f"{place}/{image_name}") == writer.data
    if snapshot:
        assert export_image(ceph, f"{place}/{image_name}@before") == before
    assert_nothing_left(ceph, empty, image_name)


def test_what_a_client_that_died_has_left_in_the_trash(
    ceph: Ceph, pools: tuple[str, str], mounting: Mounting, image_name: str
) -> None:
    """No command of Ceph gets it out: a mount does that may change the pool."""
    hdd, _ = pools
    data = make(ceph, f"{hdd}/{image_name}", snapshot=True, size=SIZE)
    with ceph.connect() as cluster, cluster.open_ioctx(hdd) as ioctx:
        with rbd.Image(ioctx, image_name, read_only=True) as image:
            image_id = image.id()
        crashes.trash_source(ioctx, image_name.encode(), image_id)
    with whole_cluster(mounting, manage=False) as mount:
        assert not mount.file(f"{hdd}/{image_name}").exists()
    with whole_cluster(mounting) as mount:
        mount.expect_log(f"WARNING .*{image_name} was left in the trash .*: restored")
        eventually(mount.file(f"{hdd}/{image_name}").exists, what="the image")
        assert mount.file(f"{hdd}/{image_name}").read_bytes() == data
        assert mount.file(f"{hdd}/{image_name}@before").exists()
    assert trash(ceph, hdd) == []
