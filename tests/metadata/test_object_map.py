"""What object maps tell is what librbd's diff tells, and no object with data is missing."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest
import rbd
from hypothesis import given
from hypothesis import strategies as st

from rbdfs.ceph.aio import AioBridge
from rbdfs.errors import NotUnderstood
from rbdfs.metadata import image_header, object_map
from rbdfs.metadata.object_map import ObjectMap, decode_object_map, trustworthy
from rbdfs.model.image_attributes import ImageAttributes, ParentSpec, SnapAttributes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import rados

    from tests.support.ceph import Ceph

MIB = 1 << 20
ORDER = 20
FEATURES = 61
FEATURES_WITHOUT_MAP = 37

# As an OSD of 16.2.15 keeps them: 20 objects, of which 0, 10, 12, 17 and 19 exist; and none.
MAP = bytes.fromhex(
    "0e000000 0101 08000000 1400000000000000 c0000cc0330c000000 8b31dc4f 01000000 95a31bd8"
)
NO_OBJECTS = bytes.fromhex("0e000000 0101 08000000 0000000000000000 08000000 52bab7ea 00000000")

Extents = list[tuple[int, int]]


def packed(states: list[int]) -> bytes:
    padded = states + [3] * (-len(states) % 4)
    return bytes(
        padded[i] << 6 | padded[i + 1] << 4 | padded[i + 2] << 2 | padded[i + 3]
        for i in range(0, len(padded), 4)
    )


def extents_of(objects: ObjectMap, size: int, order: int = ORDER) -> Extents:
    extents = list(objects.extents(size=size, order=order))
    assert all(exists for _, _, exists in extents)
    return [(off, length) for off, length, _ in extents]


def coalesced(objects: Iterable[int], size: int) -> Extents:
    """The extents of these objects, made one by one."""
    extents: Extents = []
    for number in sorted(objects):
        start, end = number << ORDER, min(number + 1 << ORDER, size)
        if extents and sum(extents[-1]) == start:
            start = extents.pop()[0]
        extents.append((start, end - start))
    return extents


def test_a_map_is_decoded() -> None:
    decoded = decode_object_map(MAP)
    assert decoded.objects == 20
    single = [(number * MIB, MIB) for number in (0, 10, 12, 17, 19)]
    assert extents_of(decoded, 20 * MIB) == single
    assert decoded.allocated_bytes(size=20 * MIB, order=ORDER) == 5 * MIB


def test_the_last_object_counts_as_far_as_the_image_goes() -> None:
    decoded = decode_object_map(MAP)
    assert extents_of(decoded, 19 * MIB + 512)[-1] == (19 * MIB, 512)
    assert decoded.allocated_bytes(size=19 * MIB + 512, order=ORDER) == 4 * MIB + 512
    assert decoded.allocated_bytes(size=19 * MIB - 512, order=ORDER) == 4 * MIB


def test_a_map_of_no_objects() -> None:
    decoded = decode_object_map(NO_OBJECTS)
    assert extents_of(decoded, 0) == []
    assert decoded.allocated_bytes(size=0, order=ORDER) == 0


def test_a_map_that_is_smaller_than_the_image_does_not_tell() -> None:
    decoded = decode_object_map(MAP)
    with pytest.raises(NotUnderstood):
        decoded.extents(size=20 * MIB + 1, order=ORDER)
    with pytest.raises(NotUnderstood):
        decoded.allocated_bytes(size=20 * MIB + 1, order=ORDER)


@given(
    states=st.lists(st.integers(0, 3), max_size=40),
    beyond=st.lists(st.integers(0, 3), max_size=9),
    clip=st.integers(0, MIB - 1),
)
def test_every_state_but_nonexistent_is_data(
    states: list[int], beyond: list[int], clip: int
) -> None:
    """Also where the map is larger than the image, as an interrupted resize leaves it."""
    size = max(0, len(states) * MIB - clip)
    objects = ObjectMap(len(states + beyond), packed(states + beyond))
    expected = coalesced((number for number, state in enumerate(states) if state), size)
    assert extents_of(objects, size) == expected
    assert objects.allocated_bytes(size=size, order=ORDER) == sum(n for _, n in expected)


@pytest.mark.parametrize("data", [MAP, NO_OBJECTS])
def test_any_damage_is_noticed(data: bytes) -> None:
    for length in range(len(data)):
        with pytest.raises(NotUnderstood):
            decode_object_map(data[:length])
    with pytest.raises(NotUnderstood):
        decode_object_map(data + b"\0")
    for bit in range(len(data) * 8):
        damaged = int.from_bytes(data, "little") ^ 1 << bit
        with pytest.raises(NotUnderstood):
            decode_object_map(damaged.to_bytes(len(data), "little"))


@given(data=st.binary(max_size=60), at=st.integers(0, len(MAP)))
def test_garbage_is_not_understood(data: bytes, at: int) -> None:
    for candidate in (data, MAP[:at] + data + MAP[at + len(data) :]):
        if candidate != MAP:
            with pytest.raises(NotUnderstood):
                decode_object_map(candidate)


SNAP = SnapAttributes(4, "s", "user", MIB, 0, False, 0, 0)
IMAGE = ImageAttributes("abc", MIB, ORDER, FEATURES, 0, 0, 0, (SNAP,), -1, None, 0, False)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({}, True, id="valid"),
        pytest.param({"flags": 2}, True, id="fast-diff alone is invalid"),
        pytest.param({"flags": 1}, False, id="invalid"),
        pytest.param({"flags": 3}, False, id="both invalid"),
        pytest.param({"flags": 4}, False, id="a flag of the future"),
        pytest.param({"flags": None}, False, id="flags not read"),
        pytest.param({"features": FEATURES | 1 << 7}, True, id="data pool"),
        pytest.param({"features": FEATURES_WITHOUT_MAP}, False, id="no map"),
        pytest.param({"features": FEATURES | 1 << 9}, False, id="migrating"),
        pytest.param({"features": FEATURES | 1 << 10}, False, id="non-primary"),
        pytest.param({"features": FEATURES | 1 << 40}, False, id="a feature of the future"),
        pytest.param({"striped": True}, False, id="striped"),
        pytest.param({"parent": ParentSpec(1, "", "p", 1, MIB)}, False, id="parent"),
        pytest.param({"parent": ParentSpec(1, "", "p", 1, 0)}, True, id="parent not seen"),
        pytest.param({"parent": ParentSpec(1, "", "p", 1, None)}, True, id="parent of snapshots"),
    ],
)
def test_when_the_map_of_an_image_can_be_trusted(changes: dict[str, Any], expected: bool) -> None:
    assert trustworthy(dataclasses.replace(IMAGE, **changes)) == expected


@pytest.mark.parametrize(
    ("image_changes", "changes", "expected"),
    [
        pytest.param({}, {}, True, id="valid"),
        pytest.param({"flags": 3}, {}, True, id="head invalid"),
        pytest.param({}, {"flags": 3}, False, id="invalid"),
        pytest.param({}, {"flags": None}, False, id="flags not read"),
        pytest.param({}, {"parent_overlap": 1}, False, id="parent"),
        pytest.param({}, {"parent_overlap": None}, False, id="parent not read"),
        pytest.param({"features": FEATURES_WITHOUT_MAP}, {}, False, id="no map"),
        pytest.param({"striped": True}, {}, False, id="striped"),
    ],
)
def test_when_the_map_of_a_snapshot_can_be_trusted(
    image_changes: dict[str, Any], changes: dict[str, Any], expected: bool
) -> None:
    snap = dataclasses.replace(SNAP, **changes)
    assert trustworthy(dataclasses.replace(IMAGE, **image_changes), snap) == expected


@pytest.fixture
def ioctx(ceph: Ceph, pool: str) -> Iterator[rados.Ioctx]:
    with ceph.connect() as cluster, cluster.open_ioctx(pool) as ioctx:
        yield ioctx


Describe = Callable[..., Awaitable[tuple[ImageAttributes, SnapAttributes | None]]]
Allocated = Callable[..., Awaitable[Extents]]


@pytest.fixture
async def describe(ioctx: rados.Ioctx) -> Describe:
    """Attributes of the image of a name and, if one is named, of its snapshot."""
    read_omap = image_header.omap_reader(AioBridge(), ioctx)

    async def describe(
        name: str, snap_name: str | None = None
    ) -> tuple[ImageAttributes, SnapAttributes | None]:
        with rbd.Image(ioctx, name, read_only=True) as image:
            image_id = image.id()
        attributes = await image_header.read_header(read_omap, image_id)
        snaps = [snap for snap in attributes.snaps if snap.name == snap_name]
        return attributes, snaps[0] if snap_name is not None else None

    return describe


@pytest.fixture
async def allocated(ioctx: rados.Ioctx, describe: Describe) -> Allocated:
    """The extents of an image or snapshot whose map can be trusted."""
    bridge = AioBridge()

    async def allocated(name: str, snap_name: str | None = None) -> Extents:
        attributes, snap = await describe(name, snap_name)
        assert trustworthy(attributes, snap)
        objects = await object_map.read_object_map(bridge, ioctx, attributes, snap)
        size = attributes.size if snap is None else snap.size
        extents = extents_of(objects, size, attributes.order)
        total = objects.allocated_bytes(size=size, order=attributes.order)
        assert total == sum(length for _, length in extents)
        return extents

    return allocated


def create(ioctx: rados.Ioctx, name: str, size: int, features: int = FEATURES) -> None:
    rbd.RBD().create(ioctx, name, size, order=ORDER, old_format=False, features=features)


def written(ioctx: rados.Ioctx, name: str, snap_name: str | None = None) -> Extents:
    """The objects that hold data, from the objects themselves: a diff that uses no map."""
    objects: set[int] = set()

    def take(off: int, length: int, exists: bool) -> None:
        if exists:
            objects.update(range(off >> ORDER, (off + length - 1 >> ORDER) + 1))

    with rbd.Image(ioctx, name, snapshot=snap_name, read_only=True) as image:
        image.diff_iterate(0, image.size(), None, take, whole_object=False)
        return coalesced(objects, image.size())


def data_objects(ioctx: rados.Ioctx, prefix: str) -> set[int]:
    keys = (entry.key for entry in ioctx.list_objects())
    return {int(key.rpartition(".")[2], 16) for key in keys if key.startswith(prefix)}


def scribble(image: rbd.Image, rounds: int, seed: int) -> None:
    """Write, discard and zero here and there."""
    chance = random.Random(seed)
    for _ in range(rounds):
        off = chance.randrange(image.size())
        length = min(chance.choice((1, 4096, MIB, 3 * MIB)), image.size() - off)
        action = chance.choice(("write", "write", "discard", "write_zeroes"))
        if action == "write":
            image.write(chance.randbytes(length), off)
        else:
            getattr(image, action)(off, length)


async def test_writes_and_discards(
    ceph: Ceph,
    pool: str,
    ioctx: rados.Ioctx,
    allocated: Allocated,
    image_name: str,
) -> None:
    size = 40 * MIB + 512
    create(ioctx, image_name, size)
    with rbd.Image(ioctx, image_name) as image:
        prefix = image.stat()["block_name_prefix"]
        image.write(b"x", size - 1)
        for seed in range(4):
            scribble(image, 12, seed)
            # The client that writes is still there and holds the exclusive lock.
            assert await allocated(image_name) == coalesced(data_objects(ioctx, prefix), size)
        image.write(b"x", size - 1)
    extents = await allocated(image_name)
    assert extents == written(ioctx, image_name)
    assert 1 < len(extents) < 40
    assert sum(extents[-1]) == size
    diff: Extents = []
    with rbd.Image(ioctx, image_name, read_only=True) as image:
        image.diff_iterate(0, size, None, lambda *e: diff.append(e[:2]), whole_object=True)
    assert coalesced({off >> ORDER for off, _ in diff}, size) == extents
    usage = json.loads(ceph.rbd("du", "--format=json", f"{pool}/{image_name}"))
    assert usage["images"][0]["used_size"] == sum(length for _, length in extents)


async def test_snapshots_of_other_sizes(
    ioctx: rados.Ioctx, allocated: Allocated, image_name: str
) -> None:
    create(ioctx, image_name, 8 * MIB + 4096)
    with rbd.Image(ioctx, image_name) as image:
        scribble(image, 8, 1)
        image.write(b"x", 8 * MIB)
        image.create_snap("small")
        image.resize(30 * MIB)
        scribble(image, 8, 2)
        image.create_snap("large")
        image.discard(0, 30 * MIB)
        image.resize(3 * MIB + 512)
        image.create_snap("empty")
        image.write(b"x", 3 * MIB)
    for snap_name in ("small", "large"):
        extents = await allocated(image_name, snap_name)
        assert extents == written(ioctx, image_name, snap_name)
        assert extents
    assert (await allocated(image_name, "small"))[-1][1] % MIB == 4096
    assert await allocated(image_name, "empty") == []
    assert await allocated(image_name) == [(3 * MIB, 512)]


async def test_an_invalid_map_is_not_trusted(
    ceph: Ceph,
    pool: str,
    ioctx: rados.Ioctx,
    describe: Describe,
    allocated: Allocated,
    image_name: str,
) -> None:
    """A map that is made for an image with data is empty, until it is rebuilt."""
    spec = f"{pool}/{image_name}"
    create(ioctx, image_name, 8 * MIB, FEATURES_WITHOUT_MAP)
    with rbd.Image(ioctx, image_name) as image:
        image.write(b"x", 2 * MIB)
        image.create_snap("s")
    ceph.rbd("feature", "enable", spec, "object-map", "fast-diff")
    for snap_name in (None, "s"):
        attributes, snap = await describe(image_name, snap_name)
        assert not trustworthy(attributes, snap)
        objects = await object_map.read_object_map(AioBridge(), ioctx, attributes, snap)
        assert objects.allocated_bytes(size=8 * MIB, order=ORDER) == 0
    ceph.rbd("object-map", "rebuild", "--no-progress", spec)
    ceph.rbd("object-map", "rebuild", "--no-progress", f"{spec}@s")
    assert await allocated(image_name) == [(2 * MIB, MIB)]
    assert await allocated(image_name, "s") == [(2 * MIB, MIB)]


@pytest.mark.parametrize("deep_flatten", [True, False])
async def test_what_a_parent_shows_is_not_in_the_map(
    ioctx: rados.Ioctx,
    describe: Describe,
    allocated: Allocated,
    image_name: str,
    deep_flatten: bool,
) -> None:
    """Flattening detaches snapshots from the parent only with feature deep-flatten."""
    clone = f"{image_name}-clone"
    features = FEATURES if deep_flatten else FEATURES & ~rbd.RBD_FEATURE_DEEP_FLATTEN
    create(ioctx, image_name, 4 * MIB)
    with rbd.Image(ioctx, image_name) as image:
        image.write(b"x", MIB)
        image.create_snap("s")
        image.protect_snap("s")
    rbd.RBD().clone(ioctx, image_name, "s", ioctx, clone, features=features, order=ORDER)
    with rbd.Image(ioctx, clone) as image:
        image.create_snap("t")
        for snap_name in (None, "t"):
            assert not trustworthy(*await describe(clone, snap_name))
        image.flatten()
    assert await allocated(clone) == [(MIB, MIB)]
    assert trustworthy(*await describe(clone, "t")) == deep_flatten
    if deep_flatten:
        assert await allocated(clone, "t") == [(MIB, MIB)]


async def test_an_image_without_a_map(
    ioctx: rados.Ioctx, describe: Describe, image_name: str
) -> None:
    create(ioctx, image_name, MIB, FEATURES_WITHOUT_MAP)
    attributes, _ = await describe(image_name)
    assert not trustworthy(attributes)
    with pytest.raises(FileNotFoundError, match=f"rbd_object_map.{attributes.image_id}"):
        await object_map.read_object_map(AioBridge(), ioctx, attributes)


async def test_an_image_of_size_0(
    ioctx: rados.Ioctx, allocated: Allocated, image_name: str
) -> None:
    create(ioctx, image_name, 0)
    assert await allocated(image_name) == []


async def test_an_image_with_more_objects_than_a_block_of_the_map(
    ioctx: rados.Ioctx, allocated: Allocated, image_name: str
) -> None:
    """Each block of 16384 objects has a checksum."""
    create(ioctx, image_name, 40000 * MIB)
    numbers = [0, 1, 16383, 16384, 32767, 32768, 39999]
    with rbd.Image(ioctx, image_name) as image:
        for number in numbers:
            image.write(b"x", number * MIB)
    assert await allocated(image_name) == coalesced(numbers, 40000 * MIB)


async def test_a_striped_image_is_not_trusted(
    ioctx: rados.Ioctx, describe: Describe, image_name: str
) -> None:
    rbd.RBD().create(
        ioctx,
        image_name,
        8 * MIB,
        order=ORDER,
        old_format=False,
        features=FEATURES,
        stripe_unit=65536,
        stripe_count=4,
    )
    attributes, _ = await describe(image_name)
    assert attributes.striped
    assert not trustworthy(attributes)


async def test_the_source_of_a_migration_is_not_in_the_map(
    ceph: Ceph, pool: str, ioctx: rados.Ioctx, describe: Describe, image_name: str
) -> None:
    target = f"{image_name}-target"
    create(ioctx, image_name, 4 * MIB)
    with rbd.Image(ioctx, image_name) as image:
        image.write(b"x", MIB)
    ceph.rbd("migration", "prepare", f"{pool}/{image_name}", f"{pool}/{target}")
    with rbd.Image(ioctx, target, read_only=True) as image:
        assert image.read(MIB, 1) == b"x"
    attributes, _ = await describe(target)
    objects = await object_map.read_object_map(AioBridge(), ioctx, attributes)
    assert objects.allocated_bytes(size=attributes.size, order=attributes.order) == 0
    assert not trustworthy(attributes)
    ceph.rbd("migration", "abort", "--no-progress", f"{pool}/{target}")


async def test_a_separate_data_pool(
    ceph: Ceph, pool: str, ioctx: rados.Ioctx, allocated: Allocated, image_name: str
) -> None:
    data_pool = f"data-{image_name}"
    ceph.ceph("osd", "pool", "create", data_pool)
    try:
        rbd.RBD().create(
            ioctx,
            image_name,
            4 * MIB,
            order=ORDER,
            old_format=False,
            features=FEATURES,
            data_pool=data_pool,
        )
        with rbd.Image(ioctx, image_name) as image:
            image.write(b"x", 3 * MIB)
        assert await allocated(image_name) == [(3 * MIB, MIB)]
        rbd.RBD().remove(ioctx, image_name)
    finally:
        ceph.ceph("osd", "pool", "rm", data_pool, data_pool, "--yes-i-really-really-mean-it")


async def test_a_map_of_another_size_than_the_image(
    ioctx: rados.Ioctx, describe: Describe, image_name: str
) -> None:
    """A resize changes the header and the map one after the other."""
    create(ioctx, image_name, 2000 * MIB)
    with rbd.Image(ioctx, image_name) as image:
        image.write(b"x", MIB)
    attributes, _ = await describe(image_name)
    small = dataclasses.replace(attributes, size=2 * MIB)
    objects = await object_map.read_object_map(AioBridge(), ioctx, small)
    assert extents_of(objects, small.size) == [(MIB, MIB)]
    large = dataclasses.replace(attributes, size=2001 * MIB)
    with pytest.raises(NotUnderstood, match="2000 objects, not 2001"):
        await object_map.read_object_map(AioBridge(), ioctx, large)


@pytest.mark.parametrize("content", [b"", MAP[:-1], b"\xff" * 4096])
async def test_a_damaged_map(
    ioctx: rados.Ioctx, describe: Describe, image_name: str, content: bytes
) -> None:
    create(ioctx, image_name, 20 * MIB)
    attributes, _ = await describe(image_name)
    ioctx.write_full(f"rbd_object_map.{attributes.image_id}", content)
    with pytest.raises(NotUnderstood):
        await object_map.read_object_map(AioBridge(), ioctx, attributes)


async def test_read_only_caps_are_enough(
    ceph: Ceph, pool: str, ioctx: rados.Ioctx, describe: Describe, image_name: str
) -> None:
    create(ioctx, image_name, MIB)
    attributes, _ = await describe(image_name)
    with ceph.connect("ro") as cluster, cluster.open_ioctx(pool) as readable:
        objects = await object_map.read_object_map(AioBridge(), readable, attributes)
    assert objects.objects == 1
