"""What a directory contains: what is left out of it, and what makes its listing fail."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, cast

import pytest
import trio

from rbdfs.errors import (
    Failure,
    Fenced,
    Missing,
    NotPermitted,
    NotUnderstood,
    PoolGone,
    TimedOut,
    failure,
)
from rbdfs.model.entry import Entry, Key
from rbdfs.model.image_attributes import USER, ImageAttributes, SnapAttributes
from rbdfs.model.partition_table import Partition
from rbdfs.names.contents import Contents
from rbdfs.names.listing import Listing

if TYPE_CHECKING:
    from rbdfs.metadata.cache import MetadataCache
    from rbdfs.names.catalog import Catalog
    from rbdfs.names.partitions import PartitionTables

PARENT = Entry(Key(1, ""), "rbd")
# What says nothing of an image, and nothing of those that cannot be asked for meanwhile.
PASSING: list[tuple[Exception, int]] = [
    (RuntimeError("can't start new thread"), errno.ENOMEM),
    (MemoryError(), errno.ENOMEM),
    (failure(errno.ENOMEM, "no memory"), errno.ENOMEM),
    (failure(errno.EAGAIN, "again"), errno.EAGAIN),
    (failure(errno.EMFILE, "no descriptor"), errno.EMFILE),
    (OSError(errno.ENFILE, "no descriptor"), errno.ENFILE),
    (TimedOut("the cluster is away"), errno.ETIMEDOUT),
    (Fenced("fenced"), errno.ESHUTDOWN),
    (PoolGone("removed"), errno.ESTALE),
]
LASTING: list[Exception] = [
    NotUnderstood("a header without size"),
    NotPermitted("not yours"),
    Failure("a scrub error"),
    ZeroDivisionError("a mistake of ours"),
    RecursionError("another one"),
]


class Pool:
    """A pool with images a, b and c, a snapshot and a partition of each: what Contents asks for.

    Attributes:
        errors: what asking for something of an image raises, by what is asked and its id.
        ids: of the images, as of now.
    """

    def __init__(self) -> None:
        self.errors: dict[tuple[str, str], Exception] = {}
        self.ids = {"a": "1", "b": "2", "c": "3"}
        self.listed = dict(self.ids)
        self.pace = self

    async def share(self) -> None:
        await trio.lowlevel.checkpoint()

    async def _fail(self, *asked: str) -> None:
        await trio.lowlevel.checkpoint()
        if asked in self.errors:
            raise self.errors[asked]

    async def image_names(self, _pool: str, _namespace: str, *, known: bool) -> dict[str, str]:
        return self.listed

    async def namespaces(self, _pool: str, *, known: bool) -> list[str]:
        return []

    async def present(self, parent: Entry) -> Entry:
        return parent

    async def image_id(self, _pool: str, _namespace: str, name: str) -> str:
        await self._fail("id", name)
        if name not in self.ids:
            raise Missing(name)
        return self.ids[name]

    async def attributes(
        self, _where: Entry, _name: str, image_id: str, *, known: bool
    ) -> ImageAttributes:
        await self._fail("attributes", image_id)
        if image_id not in self.ids.values():
            raise Missing(f"no header of {image_id}")
        snaps = (SnapAttributes(4, "s", USER, 4096, 0, False, 0, 0),)
        return ImageAttributes(image_id, 4096, 22, 1, 1, 1, 1, snaps, -1, None, 0, False)

    async def measured(
        self,
        entry: Entry,
        _attributes: ImageAttributes,
        snap: SnapAttributes | None,
        *,
        known: bool,
    ) -> Entry:
        await self._fail("snapshot" if snap else "image", entry.key.image_id)
        return entry

    def lane(self, _pool: str, *, known: bool) -> None:
        return None

    async def partitions(self, whole: Entry, _lane: None) -> list[Partition]:
        await self._fail("partitions", whole.key.image_id)
        return [Partition(1, 512, 512)]

    async def names(self) -> list[str]:
        contents = Contents(
            cast("Catalog", self),
            cast("MetadataCache", self),
            snapshots="visible",
            partition_tables=cast("PartitionTables", self),
        )
        listing = Listing(lambda: contents.parts(PARENT))
        found: list[str] = []
        while (item := await listing.item(len(found))) is not None:
            found.append(item[0].decode())
        return found


def of(*names: str) -> list[str]:
    """The names that are listed of images."""
    return [f"{name}{part}" for name in names for part in ("", "-part1", "@s", "@s-part1")]


@pytest.mark.parametrize("asked", ["attributes", "image", "snapshot", "partitions"])
@pytest.mark.parametrize(("error", "code"), PASSING, ids=lambda each: str(each))
async def test_what_passes_hides_no_name(asked: str, error: Exception, code: int) -> None:
    """`rsync --delete` takes what a listing lacks for deleted: it is to fail instead."""
    pool = Pool()
    assert await pool.names() == of("a", "b", "c")
    pool.errors[asked, "2"] = error
    with pytest.raises(OSError) as caught:  # noqa: PT011 (the errno is checked below)
        await pool.names()
    assert caught.value.errno == code
    pool.errors.clear()
    assert await pool.names() == of("a", "b", "c")


@pytest.mark.parametrize("error", LASTING, ids=lambda each: type(each).__name__)
async def test_what_cannot_be_read_hides_no_other(error: Exception) -> None:
    pool = Pool()
    pool.errors["attributes", "2"] = error
    assert await pool.names() == of("a", "c")
    pool.errors = {("snapshot", "2"): error}
    assert await pool.names() == [name for name in of("a", "b", "c") if not name.startswith("b@")]
    pool.errors = {("partitions", "2"): error}
    assert await pool.names() == [*of("a"), "b", "b@s", *of("c")]


async def test_an_image_that_is_replaced_while_it_is_listed_is_listed() -> None:
    """The names are of a moment before: its name is another image's by now."""
    pool = Pool()
    pool.ids["b"] = "22"
    assert await pool.names() == of("a", "b", "c")


async def test_an_image_that_is_removed_while_it_is_listed_is_not() -> None:
    pool = Pool()
    del pool.ids["b"]
    assert await pool.names() == of("a", "c")


async def test_what_is_left_of_an_image_is_not_listed() -> None:
    pool = Pool()
    pool.errors["attributes", "2"] = Missing("no header")
    assert await pool.names() == of("a", "c")


async def test_a_name_whose_id_makes_no_sense_any_more_hides_no_other() -> None:
    pool = Pool()
    pool.errors = {("attributes", "2"): Missing("no header"), ("id", "b"): NotUnderstood("id /")}
    assert await pool.names() == of("a", "c")
