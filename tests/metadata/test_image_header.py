"""Attributes read from header objects are those that librbd tells of the opened image."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import errno
import struct
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import pytest
import rados
import rbd
from hypothesis import given
from hypothesis import strategies as st

from rbdfs.ceph.aio import AioBridge
from rbdfs.errors import NotUnderstood
from rbdfs.metadata import image_header
from rbdfs.model.image_attributes import ImageAttributes, ParentSpec, SnapAttributes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.ceph import Ceph

MIB = 1 << 20

# As an OSD of 16.2.15 keeps them.
SNAP = bytes.fromhex(
    "0808 3e000000 0500000000000000 02000000 6331 0000a00000000000 00 0000000000000000"
    "0101 04000000 00000000 2e0e036b 1842d12d 00000000 01 0000a00000000000"
)
TRASH_SNAP = (
    bytes.fromhex("0808 61000000 0700000000000000 24000000")
    + b"16ee9756-62f1-4470-82ae-54233dcbc51d"
    + bytes.fromhex(
        "0000a00000000000 00 0000000000000000 0101 0d000000 02000000 01000000 74 00000000"
        "300e036b ee7e352e 01000000 00"
    )
)
PARENT = bytes.fromhex(
    "0202 2d000000 0100000000000000 00000000 0c000000 313032313930323539373665"
    "0400000000000000 01 0000a00000000000"
)
VALUES = {
    "size": bytes.fromhex("0000a00000000000"),
    "order": b"\x16",
    "features": bytes.fromhex("3d00000000000000"),
    "create_timestamp": bytes.fromhex("2d0e036b 489afb17"),
    "access_timestamp": bytes.fromhex("2e0e036b 489afb17"),
    "modify_timestamp": bytes.fromhex("2f0e036b 489afb17"),
    "parent": PARENT,
}
SNAPS = {"snapshot_0000000000000005": SNAP, "snapshot_0000000000000007": TRASH_SNAP}


def versioned(version: int, compat: int, body: bytes) -> bytes:
    return struct.pack("<BBI", version, compat, len(body)) + body


def old_snap(version: int, snap_id: int, size: int) -> bytes:
    """A record as Jewel (4) or Luminous (6) wrote it, with a parent in each snapshot."""
    parent = versioned(1, 1, struct.pack("<qIQQ", -1, 0, 2**64 - 2, 0))
    body = struct.pack("<QI3sQQ", snap_id, 3, b"old", size, 1) + parent + struct.pack("<BQ", 2, 0)
    if version >= 5:
        body += versioned(1, 1, struct.pack("<I", 0)) + struct.pack("<II", 1500000000, 5)
    return versioned(version, 1, body)


def test_a_header_is_decoded() -> None:
    attributes = image_header.decode_header("abc", VALUES, SNAPS)
    created = 0x6B030E2D * 10**9 + 0x17FB9A48
    assert attributes == ImageAttributes(
        image_id="abc",
        size=10 * MIB,
        order=22,
        features=0x3D,
        create_ns=created,
        access_ns=created + 10**9,
        modify_ns=created + 2 * 10**9,
        snaps=(
            SnapAttributes(
                5, "c1", "user", 10 * MIB, 0x6B030E2E * 10**9 + 0x2DD14218, False, 0, 10 * MIB
            ),
            SnapAttributes(
                7,
                "16ee9756-62f1-4470-82ae-54233dcbc51d",
                "trash",
                10 * MIB,
                0x6B030E30 * 10**9 + 0x2E357EEE,
                False,
                0,
                0,
            ),
        ),
        data_pool_id=-1,
        parent=ParentSpec(1, "", "10219025976e", 4, 10 * MIB),
        flags=0,
        striped=False,
    )


def test_what_old_headers_lack_has_a_default() -> None:
    """Timestamps came with Luminous (snapshots, create) and Nautilus (access, modify)."""
    values = {key: VALUES[key] for key in ("size", "order", "features")}
    attributes = image_header.decode_header("abc", values, {})
    assert (attributes.create_ns, attributes.access_ns, attributes.modify_ns) == (0, 0, 0)
    assert (attributes.data_pool_id, attributes.parent, attributes.snaps) == (-1, None, ())
    assert (attributes.flags, attributes.striped) == (0, False)


@pytest.mark.parametrize(("version", "timestamp_ns"), [(4, 0), (6, 1500000000 * 10**9 + 5)])
def test_snapshots_of_old_releases(version: int, timestamp_ns: int) -> None:
    assert image_header.decode_snap(old_snap(version, 3, 7)) == (
        SnapAttributes(3, "old", "user", 7, timestamp_ns, True, 0, 0),
        None,
    )


def test_a_snapshot_of_an_old_release_has_its_own_parent() -> None:
    parent = versioned(1, 1, struct.pack("<qI2sQQ", 3, 2, b"id", 4, 5))
    body = struct.pack("<QI3sQQ", 3, 3, b"old", 7, 1) + parent + struct.pack("<BQ", 0, 3)
    snap, own = image_header.decode_snap(versioned(4, 1, body))
    assert own == ParentSpec(3, "", "id", 4, 5)
    assert (snap.parent_overlap, snap.flags) == (5, 3)


@pytest.mark.parametrize(
    ("unit", "count", "striped"),
    [(4 * MIB, 1, False), (4 * MIB, 2, True), (65536, 1, True), (65536, 4, True)],
)
def test_stripes_that_are_not_the_default(unit: int, count: int, striped: bool) -> None:
    stripes = {"stripe_unit": struct.pack("<Q", unit), "stripe_count": struct.pack("<Q", count)}
    assert image_header.decode_header("abc", {**VALUES, **stripes}, {}).striped == striped


@pytest.mark.parametrize("snap_id", [0, 2**64 - 2, 2**64 - 1])
def test_a_snapshot_with_an_id_that_is_none(snap_id: int) -> None:
    """0 stands for the image itself, and the others for its head and for all its snapshots."""
    record = SNAP[:6] + struct.pack("<Q", snap_id) + SNAP[14:]
    with pytest.raises(NotUnderstood):
        image_header.decode_header("abc", VALUES, {f"snapshot_{snap_id:016x}": record})


def test_a_newer_record_that_old_readers_may_read_is_read() -> None:
    body = SNAP[6:] + b"a field of the future"
    assert image_header.decode_snap(versioned(9, 8, body)) == image_header.decode_snap(SNAP)


def test_a_namespace_type_of_the_future_is_its_number() -> None:
    namespace = bytes.fromhex("0101 04000000 00000000")
    newer = SNAP.replace(namespace, bytes.fromhex("0201 04000000 09000000"))
    assert newer != SNAP
    assert image_header.decode_snap(newer)[0].namespace_type == 9


@pytest.mark.parametrize(
    ("number", "name"), [(0, "user"), (1, "group"), (2, "trash"), (3, "mirror")]
)
def test_a_namespace_as_ceph_20_writes_it(number: int, name: str) -> None:
    """Of version 2, for readers of version 1: the type comes first."""
    namespace = bytes.fromhex("0101 04000000 00000000")
    body = struct.pack("<I", number) + b"whatever this version has more"
    newer = SNAP[6:].replace(namespace, versioned(2, 1, body))
    snap, _ = image_header.decode_snap(versioned(8, 8, newer))
    known, _ = image_header.decode_snap(SNAP)
    assert snap == dataclasses.replace(known, namespace_type=name)


def test_a_parent_of_the_first_version_and_no_parent() -> None:
    first = versioned(1, 1, struct.pack("<qI2sQQ", 3, 2, b"id", 4, 5))
    assert image_header.decode_parent(first) == ParentSpec(3, "", "id", 4, 5)
    none = versioned(1, 1, struct.pack("<qIQQ", -1, 0, 2**64 - 2, 0))
    assert image_header.decode_parent(none) is None


@pytest.mark.parametrize(
    ("values", "snaps"),
    [
        pytest.param({**VALUES, "size": b"\0" * 7}, {}, id="short"),
        pytest.param({**VALUES, "size": b"\0" * 9}, {}, id="long"),
        pytest.param({**VALUES, "modify_timestamp": b"\xff" * 8}, {}, id="nanoseconds"),
        pytest.param({"size": VALUES["size"]}, {}, id="missing"),
        pytest.param({}, {}, id="empty"),
        pytest.param(VALUES, {"snapshot_0000000000000006": SNAP}, id="another snapshot's key"),
        pytest.param(VALUES, {"snapshot_0000000000000005": SNAP + b"\0"}, id="snapshot too long"),
        pytest.param(VALUES, {"snapshot_0000000000000005": b"\x09\x09" + SNAP[2:]}, id="newer"),
        pytest.param({**VALUES, "parent": b"\x03\x03" + PARENT[2:]}, {}, id="newer parent"),
    ],
)
def test_a_strange_header_is_not_understood(
    values: dict[str, bytes], snaps: dict[str, bytes]
) -> None:
    with pytest.raises(NotUnderstood):
        image_header.decode_header("abc", values, snaps)


@pytest.mark.parametrize("order", [0, 8, 63, 64, 255])
def test_an_object_size_that_cannot_be_is_an_error(order: int) -> None:
    """Not a case for the fallback: librbd dies of SIGFPE when it opens such an image."""
    with pytest.raises(OSError, match="image abc") as error:
        image_header.decode_header("abc", {**VALUES, "order": bytes([order])}, {})
    assert error.value.errno == errno.EIO


@pytest.mark.parametrize("data", [SNAP, TRASH_SNAP, old_snap(6, 3, 7)])
def test_a_truncated_snapshot_is_not_understood(data: bytes) -> None:
    for length in range(len(data)):
        with pytest.raises(NotUnderstood):
            image_header.decode_snap(data[:length])


@given(data=st.binary(max_size=80), at=st.integers(0, len(SNAP)))
def test_garbage_is_understood_or_not_and_nothing_else(data: bytes, at: int) -> None:
    mixed = SNAP[:at] + data + SNAP[at + len(data) :]
    for decode in (image_header.decode_snap, image_header.decode_parent):
        for candidate in (data, mixed):
            with contextlib.suppress(NotUnderstood):
                decode(candidate)
    with contextlib.suppress(NotUnderstood):
        image_header.decode_header("abc", {**VALUES, "size": data}, {"snapshot_": mixed})


async def test_snapshots_of_short_pages_are_all_read() -> None:
    """An OSD may send fewer keys than were asked for: only an empty page is the end."""
    snaps = {f"snapshot_{i:016x}": old_snap(6, i, i) for i in range(1, 8)}
    asked = []

    async def read_omap(
        oid: str, keys: tuple[str, ...], prefix: str, start_after: str
    ) -> tuple[dict[str, bytes], dict[str, bytes]]:
        asked.append((oid, prefix))
        page = [key for key in sorted(snaps) if key > start_after][: 1 + len(asked) % 3]
        return {key: VALUES[key] for key in keys if key in VALUES}, {k: snaps[k] for k in page}

    attributes = await image_header.read_header(read_omap, "abc")
    assert [snap.snap_id for snap in attributes.snaps] == list(range(1, 8))
    assert set(asked) == {("rbd_header.abc", "snapshot_")}


async def test_a_page_that_repeats_itself_is_not_understood() -> None:
    async def read_omap(*_args: object) -> tuple[dict[str, bytes], dict[str, bytes]]:
        return VALUES, SNAPS

    with pytest.raises(NotUnderstood):
        await image_header.read_header(read_omap, "abc")


@pytest.fixture
def ioctx(ceph: Ceph, pool: str) -> Iterator[rados.Ioctx]:
    with ceph.connect() as cluster, cluster.open_ioctx(pool) as ioctx:
        yield ioctx


Read = Callable[[str], Awaitable[ImageAttributes]]


@pytest.fixture
async def read(ioctx: rados.Ioctx) -> Read:
    read_omap = image_header.omap_reader(AioBridge(), ioctx)

    async def read(name: str) -> ImageAttributes:
        ids = {entry["name"]: entry["id"] for entry in rbd.RBD().list2(ioctx)}
        return await image_header.read_header(read_omap, ids[name])

    return read


def seconds(moment: datetime.datetime) -> int:
    """The binding gives UTC without saying so, and cuts off the nanoseconds."""
    return int(moment.replace(tzinfo=datetime.UTC).timestamp())


def snap_id_of(ioctx: rados.Ioctx, image_id: str, snap_name: str) -> int:
    with rbd.Image(ioctx, image_id=image_id, read_only=True) as image:
        return next(int(snap["id"]) for snap in image.list_snaps() if snap["name"] == snap_name)


def opened(ioctx: rados.Ioctx, name: str) -> ImageAttributes:
    """What librbd says of the image, with times in whole seconds."""
    kinds = {0: "user", 1: "group", 2: "trash", 3: "mirror"}
    own_pool = ioctx.get_pool_id()
    snaps = []
    with rbd.Image(ioctx, name, read_only=True) as image:
        for snap in image.list_snaps():
            image.set_snap_by_id(snap["id"])
            attributes = SnapAttributes(
                snap_id=snap["id"],
                name=snap["name"],
                namespace_type=kinds[snap["namespace"]],
                size=snap["size"],
                timestamp_ns=seconds(image.get_snap_timestamp(snap["id"])),
                protected=snap["namespace"] == 0 and image.is_protected_snap(snap["name"]),
                flags=image.flags(),
                parent_overlap=image.overlap(),
            )
            snaps.append(attributes)
        image.set_snap(None)
        parent = None
        with contextlib.suppress(rbd.ImageNotFound):
            spec = image.get_parent_image_spec()
            parent = ParentSpec(
                own_pool,
                spec["pool_namespace"],
                image.parent_id(),
                snap_id_of(ioctx, image.parent_id(), spec["snap_name"]),
                image.overlap(),
            )
        return ImageAttributes(
            image_id=image.id(),
            size=image.size(),
            order=image.stat()["order"],
            features=image.features(),
            create_ns=seconds(image.create_timestamp()),
            access_ns=seconds(image.access_timestamp()),
            modify_ns=seconds(image.modify_timestamp()),
            snaps=tuple(sorted(snaps, key=lambda snap: snap.snap_id)),
            data_pool_id=image.data_pool_id(),
            parent=parent,
            flags=image.flags(),
            striped=image.stripe_count() != 1,
        )


def comparable(attributes: ImageAttributes, own_pool: int) -> ImageAttributes:
    """*attributes* as precise as the binding is."""

    def cut(ns: int) -> int:
        return ns // 10**9

    return dataclasses.replace(
        attributes,
        create_ns=cut(attributes.create_ns),
        access_ns=cut(attributes.access_ns),
        modify_ns=cut(attributes.modify_ns),
        snaps=tuple(
            dataclasses.replace(snap, timestamp_ns=cut(snap.timestamp_ns))
            for snap in attributes.snaps
        ),
        data_pool_id=own_pool if attributes.data_pool_id == -1 else attributes.data_pool_id,
    )


async def test_an_image_that_was_resized_and_snapshotted(
    ioctx: rados.Ioctx, read: Read, image_name: str
) -> None:
    rbd.RBD().create(ioctx, image_name, 8 * MIB, order=20, old_format=False, features=61)
    with rbd.Image(ioctx, image_name) as image:
        image.create_snap("first")
        image.resize(20 * MIB)
        image.create_snap("s" * 300)
        image.protect_snap("first")
        image.create_snap("line\nfeed/..@")
        image.resize(3 * MIB + 512)
        image.write(b"x", 0)
    attributes = await read(image_name)
    assert comparable(attributes, ioctx.get_pool_id()) == opened(ioctx, image_name)
    assert attributes.size == 3 * MIB + 512
    assert [snap.size for snap in attributes.snaps] == [8 * MIB, 20 * MIB, 20 * MIB]
    assert [snap.protected for snap in attributes.snaps] == [True, False, False]
    assert all(snap.timestamp_ns > attributes.create_ns for snap in attributes.snaps)


async def test_reading_leaves_no_watcher(
    ceph: Ceph, pool: str, ioctx: rados.Ioctx, read: Read, image_name: str
) -> None:
    rbd.RBD().create(ioctx, image_name, MIB)
    attributes = await read(image_name)
    assert ceph.watchers(f"{pool}/{image_name}") == []
    watchers = ceph.rados("-p", pool, "listwatchers", f"rbd_header.{attributes.image_id}")
    assert watchers == ""


async def test_snapshots_of_every_namespace_type(
    ceph: Ceph, pool: str, ioctx: rados.Ioctx, read: Read, image_name: str
) -> None:
    spec, group = f"{pool}/{image_name}", f"{pool}/group-{image_name}"
    ceph.rbd("create", "--size=4M", spec)
    ceph.rbd("snap", "create", "--no-progress", f"{spec}@removed")
    ceph.rbd("clone", "--rbd-default-clone-format=2", f"{spec}@removed", f"{spec}-clone")
    ceph.rbd("snap", "rm", "--no-progress", f"{spec}@removed")
    ceph.rbd("group", "create", group)
    ceph.rbd("group", "image", "add", group, spec)
    ceph.rbd("group", "snap", "create", f"{group}@all")
    ceph.rbd("group", "image", "rm", group, spec)
    ceph.rbd("mirror", "pool", "enable", pool, "image")
    ceph.rbd("mirror", "image", "enable", spec, "snapshot")
    ceph.rbd("snap", "create", "--no-progress", f"{spec}@user")
    attributes = await read(image_name)
    assert comparable(attributes, ioctx.get_pool_id()) == opened(ioctx, image_name)
    kinds = [snap.namespace_type for snap in attributes.snaps]
    assert kinds == ["trash", "group", "mirror", "user"]
    clone = await read(f"{image_name}-clone")
    assert comparable(clone, ioctx.get_pool_id()) == opened(ioctx, f"{image_name}-clone")
    assert clone.parent is not None
    assert clone.parent.image_id == attributes.image_id


async def test_a_snapshot_name_that_is_not_utf8(
    ceph: Ceph, pool: str, ioctx: rados.Ioctx, read: Read, image_name: str
) -> None:
    rbd.RBD().create(ioctx, image_name, MIB)
    ceph.rbd("snap", "create", "--no-progress", f"{pool}/{image_name}@\udcff\udcfe")
    assert [snap.name for snap in (await read(image_name)).snaps] == ["\udcff\udcfe"]


async def test_a_separate_data_pool(
    ceph: Ceph, pool: str, ioctx: rados.Ioctx, read: Read, image_name: str
) -> None:
    data_pool = f"data-{image_name}"
    ceph.ceph("osd", "pool", "create", data_pool)
    try:
        ceph.rbd("create", "--size=4M", f"--data-pool={data_pool}", f"{pool}/{image_name}")
        attributes = await read(image_name)
        assert attributes.data_pool_id not in (-1, ioctx.get_pool_id())
        assert comparable(attributes, ioctx.get_pool_id()) == opened(ioctx, image_name)
        ceph.rbd("rm", "--no-progress", f"{pool}/{image_name}")
    finally:
        ceph.ceph("osd", "pool", "rm", data_pool, data_pool, "--yes-i-really-really-mean-it")


@pytest.mark.parametrize("version", [4, 6])
async def test_librbd_reads_old_snapshots_alike(
    ioctx: rados.Ioctx, read: Read, image_name: str, version: int
) -> None:
    """Records that an old cluster wrote stay in the header until the snapshot is changed."""
    rbd.RBD().create(ioctx, image_name, 4 * MIB)
    with rbd.Image(ioctx, image_name) as image:
        image.create_snap("new")
        snap_id = next(iter(image.list_snaps()))["id"]
        oid = f"rbd_header.{image.id()}"
    with rados.WriteOpCtx() as operation:
        key = f"snapshot_{snap_id:016x}"
        ioctx.set_omap(operation, (key,), (old_snap(version, snap_id, 3 * MIB),))
        ioctx.operate_write_op(operation, oid)
    attributes = await read(image_name)
    assert comparable(attributes, ioctx.get_pool_id()) == opened(ioctx, image_name)
    assert [snap.name for snap in attributes.snaps] == ["old"]


async def test_more_snapshots_than_a_page_holds(
    ioctx: rados.Ioctx, read: Read, image_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rbd.RBD().create(ioctx, image_name, MIB, features=1, old_format=False)
    with rbd.Image(ioctx, image_name) as image:
        for number in range(7):
            image.create_snap(str(number))
    monkeypatch.setattr(image_header, "_PAGE_KEYS", 3)
    assert [snap.name for snap in (await read(image_name)).snaps] == list("0123456")


async def test_no_such_image(ioctx: rados.Ioctx) -> None:
    read_omap = image_header.omap_reader(AioBridge(), ioctx)
    with pytest.raises(FileNotFoundError, match=r"rbd_header\.0badc0de"):
        await image_header.read_header(read_omap, "0badc0de")


async def test_read_only_caps_are_enough(
    ceph: Ceph, pool: str, ioctx: rados.Ioctx, image_name: str
) -> None:
    rbd.RBD().create(ioctx, image_name, MIB)
    with rbd.Image(ioctx, image_name, read_only=True) as image:
        image_id = image.id()
    with ceph.connect("ro") as cluster, cluster.open_ioctx(pool) as readable:
        read_omap = image_header.omap_reader(AioBridge(), readable)
        assert (await image_header.read_header(read_omap, image_id)).size == MIB
