"""Crafted omaps: whoever may write to one pool or namespace hides no name of anybody else's.

Nor does he stop the mount: whatever an object says, it is understood, or that image alone fails.
"""

from __future__ import annotations

import os
import struct
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import rados
import rbd

from tests.support.ceph import run
from tests.support.conditions import eventually
from tests.support.crashes import trash_source
from tests.support.images import MIB, import_image
from tests.support.mounts import opened
from tests.support.refusals import refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount, Mounting

FEATURES = rbd.RBD_FEATURE_LAYERING


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def string(value: bytes) -> bytes:
    return struct.pack("<I", len(value)) + value


def versioned(version: int, body: bytes, compat: int | None = None) -> bytes:
    return struct.pack("<BBI", version, compat or version, len(body)) + body


def parent(pool_id: int, image_id: str, snap_id: int, namespace: bytes = b"") -> bytes:
    body = struct.pack("<q", pool_id) + string(namespace) + string(image_id.encode())
    return versioned(2, body + u64(snap_id) + b"\1" + u64(MIB))


class Crafting:
    """A pool whose objects are written to as any client with `osd allow rwx` can."""

    def __init__(self, ioctx: rados.Ioctx) -> None:
        self.ioctx = ioctx

    def image(self, name: str) -> str:
        """Make an image of a mebibyte; return its id."""
        rbd.RBD().create(self.ioctx, name, MIB, features=FEATURES)
        with rados.ReadOpCtx() as operation:
            found, _ = self.ioctx.get_omap_vals_by_keys(operation, (f"name_{name}",))
            self.ioctx.operate_read_op(operation, "rbd_directory")
            value: bytes = dict(found)[f"name_{name}"]
        return value[4:].decode()

    def set(self, oid: str, **values: bytes) -> None:
        self.set_all(oid, values)

    def set_all(self, oid: str, values: dict[str, bytes]) -> None:
        with rados.WriteOpCtx() as operation:
            self.ioctx.set_omap(operation, tuple(values), tuple(values.values()))
            self.ioctx.operate_write_op(operation, oid)

    def header(self, name: str, **values: bytes) -> str:
        image_id = self.image(name)
        self.set(f"rbd_header.{image_id}", **values)
        return image_id


def target_of(pool_id: int, image_id: str) -> bytes:
    """The record of a prepared migration, as its target has it."""
    body = (
        b"\2" + struct.pack("<q", pool_id) + string(b"") + string(b"it") + string(image_id.encode())
    )
    return versioned(
        3, body + bytes(4) + u64(MIB) + b"\0\0\2" + string(b"") + b"\0" + string(b""), 1
    )


SNAP_ID = 7


def snapshot(size: int = MIB, name: bytes = b"s", stamp: bytes = bytes(8)) -> bytes:
    body = u64(SNAP_ID) + string(name) + u64(size) + b"\0" + u64(0)
    body += versioned(1, struct.pack("<I", 0)) + stamp + struct.pack("<I", 0) + b"\0"
    return versioned(8, body)


def old_snapshot(own_parent: bytes) -> bytes:
    """As releases before Nautilus wrote them: with a parent of the snapshot's own."""
    body = u64(SNAP_ID) + string(b"s") + u64(MIB) + u64(1) + own_parent
    return versioned(4, body + b"\0" + u64(0), compat=1)


def craft_headers(crafting: Crafting) -> None:
    """Images that cannot be shown, each for a reason of its own."""
    header, pool_id = crafting.header, crafting.ioctx.get_pool_id()
    header("bad-size-2to63", size=u64(1 << 63))
    header("bad-size-max", size=u64(2**64 - 1))
    header("bad-size-short", size=b"\0" * 7)
    for order in (0, 8, 63, 255):
        header(f"bad-order-{order}", order=bytes([order]))
    header("bad-time", modify_timestamp=b"\xff" * 8)
    header("bad-flags", flags=b"")
    header("bad-parent", parent=b"\2\2\xff\xff\xff\xff")
    header("bad-parent-id", parent=parent(pool_id, "\xff\n", 1))
    header("bad-parent-namespace", parent=parent(pool_id, "abc", 1, b"a\xff\0b"))
    header("bad-snapshot", snapshot_0000000000000007=b"\x08\x08\0\0\0\0")
    header("bad-snapshot-id", snapshot_0000000000000008=snapshot())
    image_id = crafting.image("bad-later-and-circle")
    crafting.set(
        f"rbd_header.{image_id}",
        parent=parent(pool_id, image_id, SNAP_ID),
        snapshot_0000000000000007=versioned(99, b"?" * 40),
    )
    for what, pool, gone in (("pool", 2**62, "abc"), ("image", pool_id, "0badc0de")):
        header(
            f"bad-later-and-no-parent-{what}",
            parent=parent(pool, gone, 1),
            snapshot_0000000000000007=versioned(99, b"?" * 40),
        )


def craft_listed(crafting: Crafting) -> None:
    """Images that are shown, however odd."""
    header, pool_id = crafting.header, crafting.ioctx.get_pool_id()
    header("odd-size", size=u64(2**63 - 1))
    header("odd-time", modify_timestamp=b"\xff\xff\xff\xff" + struct.pack("<I", 10**9 - 1))
    header("odd-features", features=u64(2**64 - 1))
    header("odd-snapshot-size", snapshot_0000000000000007=snapshot(1 << 63))
    header("odd-snapshot-name", snapshot_0000000000000007=snapshot(name=b"\xff/\0\n"))
    header("odd-snapshot-empty", snapshot_0000000000000007=snapshot(name=b""))
    header("odd-parent-pool", parent=parent(2**62, "abc", 1))
    header("odd-parent-gone", parent=parent(pool_id, "0badc0de", 1))
    header("odd-data-pool", data_pool_id=struct.pack("<q", 2**62))
    image_id = crafting.image("circle-of-one")
    crafting.set(f"rbd_header.{image_id}", parent=parent(pool_id, image_id, SNAP_ID))
    first, second = crafting.image("circle-first"), crafting.image("circle-second")
    crafting.set(f"rbd_header.{first}", parent=parent(pool_id, second, SNAP_ID))
    crafting.set(f"rbd_header.{second}", parent=parent(pool_id, first, SNAP_ID))
    migrating = u64(FEATURES | rbd.RBD_FEATURE_MIGRATING)
    header("migrating-from-nowhere", features=migrating)
    header("migrating-from-nothing", features=migrating, migration=target_of(pool_id, "0badc0de"))
    image_id = crafting.image("migrating-from-itself")
    record = target_of(pool_id, image_id)
    crafting.set(f"rbd_header.{image_id}", features=migrating, migration=record)
    header("migrating-from-a-circle", features=migrating, migration=target_of(pool_id, first))
    target, source = crafting.image("migrating-in-a-ring"), crafting.image("circle-of-migration")
    crafting.set(f"rbd_header.{target}", features=migrating, migration=target_of(pool_id, source))
    crafting.set(f"rbd_header.{source}", parent=parent(pool_id, target, SNAP_ID))
    image_id = crafting.image("circle-of-snapshot")
    own = parent(pool_id, image_id, SNAP_ID)
    crafting.set(f"rbd_header.{image_id}", snapshot_0000000000000007=old_snapshot(own))


LISTED = {
    "circle-first",
    "circle-of-migration",
    "circle-of-one",
    "circle-of-snapshot",
    "circle-of-snapshot@s",
    "circle-second",
    "migrating-from-a-circle",
    "migrating-from-itself",
    "migrating-from-nothing",
    "migrating-from-nowhere",
    "migrating-in-a-ring",
    "odd-data-pool",
    "odd-features",
    "odd-parent-gone",
    "odd-parent-pool",
    "odd-size",
    "odd-snapshot-empty",
    "odd-snapshot-name",
    "odd-snapshot-name@%FF%2F%00\n",
    "odd-snapshot-size",
    "odd-time",
    "space",
    "usual",
    "usual@s",
}


def craft_directory(crafting: Crafting) -> None:
    """Names that stand for what is no id, and a directory of format 1 that is none."""
    for name, image_id in (
        ("id-not-ascii", b"\xff\xfe"),
        ("id-empty", b""),
        ("id-of-another-kind", b"/usual"),
        ("id-with-nul", b"a\0b"),
    ):
        crafting.set_all("rbd_directory", {f"name_{name}": string(image_id)})
    crafting.ioctx.write_full("rbd_directory", b"\xff\xff\xff\xff nothing that is a table")
    crafting.set_all("rbd_namespace", {"name_space": b"", "name_": b""})


@pytest.fixture(scope="module")
def crafted(ceph: Ceph, pool: str, ioctx: Any) -> str:
    import_image(ceph, f"{pool}/usual", b"usual" * 1000)
    ceph.rbd("snap", "create", "--no-progress", f"{pool}/usual@s")
    ceph.rbd("namespace", "create", f"{pool}/space")
    import_image(ceph, f"{pool}/space/inside", b"inside" * 1000)
    crafting = Crafting(ioctx)
    craft_headers(crafting)
    craft_listed(crafting)
    craft_directory(crafting)
    return pool


@pytest.fixture(scope="module", params=["native", "python"])
def mount(
    crafted: str, module_mounting: Mounting, request: pytest.FixtureRequest
) -> Iterator[Mount]:
    options = f"manage=snapshots,partitions,datapath={request.param}"
    with module_mounting(crafted, "-o", options) as mount:
        yield mount
        mount.allow_log(
            "left out of",
            r": .*(circle|migrating|odd|bad|id)-",
            r"/it: more than 16 parents",
            r"parent (abc|0badc0de) is gone",
        )


def attempts(path: Path) -> Iterator[Callable[[], object]]:
    """What anybody may do to a file."""
    yield partial(os.stat, path)
    yield partial(os.listxattr, path)
    for name in ("parent", "data_pool", "watchers", "lock_owner", "features", "qemu"):
        yield partial(os.getxattr, path, f"user.rbd.{name}")
    for flags in (os.O_RDONLY, os.O_RDWR):
        yield partial(read_a_block, path, flags)
    yield partial(os.link, path, f"{path}@new")
    yield partial(os.unlink, f"{path}@new")
    yield partial(os.setxattr, path, "user.rbd.meta.a", b"b")
    yield partial(os.rename, path, f"{path}-renamed")


def read_a_block(path: Path, flags: int) -> None:
    with opened(path, flags) as file:
        os.pread(file, 4096, 0)


def test_one_hides_no_other(mount: Mount) -> None:
    for _ in range(2):
        assert set(os.listdir(mount.path)) == LISTED
        assert mount.file("usual").read_bytes() == b"usual" * 1000
        assert mount.file("space/inside").read_bytes() == b"inside" * 1000
    run("ls", "-l", str(mount.path))


NEVER_OPENED = sorted(
    {name for name in LISTED if name.startswith(("circle-", "migrating-"))} - {"circle-of-snapshot"}
)


@pytest.mark.parametrize("name", NEVER_OPENED)
def test_what_librbd_would_hang_or_die_of_is_never_opened(mount: Mount, name: str) -> None:
    """It has no memory left, asks without an end, or aborts the process."""
    path = mount.file(name)
    for flags in (os.O_RDONLY, os.O_RDWR):
        if not (flags == os.O_RDWR and "@" in name):
            assert refusal(partial(read_a_block, path, flags)) == "EIO"
    for attempt in attempts(path):
        refusal(attempt)
    assert mount.file("usual").read_bytes() == b"usual" * 1000


def never_opened(crafting: Crafting, how: str, name: str) -> str:
    """Make an image that librbd would not come to an end with, or abort; return its id."""
    pool_id = crafting.ioctx.get_pool_id()
    image_id = crafting.image(name)
    if how == "circle":
        ancestor = image_id
    else:
        ancestor = crafting.header(
            f"{name}-parent",
            features=u64(FEATURES | rbd.RBD_FEATURE_MIGRATING),
            migration=target_of(pool_id, "0badc0de"),
        )
    crafting.set(f"rbd_header.{image_id}", parent=parent(pool_id, ancestor, SNAP_ID))
    return image_id


either_way = pytest.mark.parametrize("how", ["circle", "migrating"])


@either_way
def test_what_a_mount_looks_for_by_itself_is_never_opened(
    ceph: Ceph, mounting: Mounting, how: str
) -> None:
    """Marks of files that grew, and what a migration that died has left in the trash."""
    with (
        ceph.temporary_pool() as pool,
        ceph.connect() as cluster,
        cluster.open_ioctx(pool) as ioctx,
    ):
        crafting = Crafting(ioctx)
        import_image(ceph, f"{pool}/usual", b"usual" * 1000)
        marked, trashed = (never_opened(crafting, how, name) for name in ("marked", "trashed"))
        crafting.set_all(f"rbd_header.{marked}", {"metadata_rbdfs.growing": b"x"})
        trash_source(ioctx, b"trashed", trashed)
        with mounting(pool, "-o", "manage") as mount:
            mount.expect_log(r"image 'marked' keeps room", r"/trashed stays in the trash")
            mount.allow_log(r"/marked: ", r"/ is moved from")
            eventually(lambda: "keeps room" in mount.log_text, what="the look at the mark")
            eventually(lambda: "in the trash" in mount.log_text, what="the look at the trash")
            path = mount.file("marked")
            assert refusal(lambda: os.truncate(path, 2 * MIB)) == "EIO"
            for attempt in attempts(path):
                refusal(attempt)
            assert mount.file("usual").read_bytes() == b"usual" * 1000


@either_way
def test_what_is_in_the_way_of_a_move_is_never_opened(
    ceph: Ceph, pools: tuple[str, str], mounting: Mounting, how: str
) -> None:
    """What is moved, and its clones."""
    source, target = pools
    with (
        ceph.connect() as cluster,
        cluster.open_ioctx(source) as ioctx,
        mounting(None, "-o", "manage") as mount,
    ):
        crafting = Crafting(ioctx)
        never_opened(crafting, how, f"{how}-moved")
        import_image(ceph, f"{source}/{how}-base", b"base" * 1000)
        ceph.rbd("snap", "create", "--no-progress", f"{source}/{how}-base@s")
        ceph.rbd("snap", "protect", f"{source}/{how}-base@s")
        ceph.rbd("clone", f"{source}/{how}-base@s", f"{source}/{how}-clone")
        ancestor = never_opened(crafting, how, f"{how}-other")
        with rbd.Image(ioctx, f"{how}-clone", read_only=True) as image:
            clone = image.id()
        lie = parent(ioctx.get_pool_id(), ancestor, SNAP_ID)
        crafting.set(f"rbd_header.{clone}", parent=lie)
        mount.allow_log(r"(circle|migrating|bad|odd|id)-", "left out of", r"/ is moved from")
        for name in (f"{how}-moved", f"{how}-base"):
            old, new = mount.file(f"{source}/{name}"), mount.file(f"{target}/{name}")
            eventually(old.exists, what="the image")
            assert refusal(partial(os.rename, old, new)) == "EIO"
        assert mount.file(f"{source}/{how}-base").read_bytes() == b"base" * 1000


def test_what_is_left_out_fails_alone(mount: Mount) -> None:
    for order in (0, 8, 63, 255):
        assert refusal(mount.file(f"bad-order-{order}").stat) == "EIO"
    for name in (
        "size-2to63",
        "size-max",
        "size-short",
        "time",
        "flags",
        "snapshot",
        "snapshot-id",
        "later-and-circle",
        "parent",
        "parent-id",
        "parent-namespace",
    ):
        for attempt in attempts(mount.file(f"bad-{name}")):
            assert refusal(attempt) in ("EIO", "ENOENT"), (name, attempt)
    for what in ("pool", "image"):
        for attempt in attempts(mount.file(f"bad-later-and-no-parent-{what}")):
            assert refusal(attempt) in ("ESTALE", "ENOENT"), (what, attempt)
    for name in ("id-not-ascii", "id-empty", "id-of-another-kind", "id-with-nul"):
        assert refusal(mount.file(name).stat) in ("EIO", "ENOENT")


def test_what_is_odd_fails_alone(mount: Mount) -> None:
    assert mount.file("odd-size").stat().st_size == 2**63 - 1
    for name in sorted(LISTED):
        if name.startswith("odd-"):
            for attempt in attempts(mount.file(name)):
                refusal(attempt)
            back = mount.file(f"{name}-renamed")
            if back.exists():
                back.rename(mount.file(name))
    assert mount.file("usual").read_bytes() == b"usual" * 1000
    assert set(os.listdir(mount.path)) >= {"usual", "usual@s", "space"}


def test_a_namespace_table_that_makes_no_sense(
    ceph: Ceph, ioctx: Any, mount: Mount, crafted: str
) -> None:
    """The class of the OSD answers for it: images of the pool are there all the same."""
    assert refusal(mount.file("nothing").stat) == "ENOENT"
    assert refusal(mount.file("@nothing").stat) == "ENOENT"
    assert os.listdir(mount.file("space")) == ["inside"]
