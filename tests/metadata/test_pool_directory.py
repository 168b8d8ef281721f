"""A pool's images and namespaces, whatever bytes their names are of."""

from __future__ import annotations

import contextlib
import functools
import os
import struct
from typing import TYPE_CHECKING

import pytest
import rbd
import trio
from hypothesis import given
from hypothesis import strategies as st

from rbdfs.errors import NotUnderstood
from rbdfs.metadata import pool_directory
from rbdfs.model.encoding import encode_string

if TYPE_CHECKING:
    from collections.abc import Iterator

    import rados

    from tests.support.ceph import Ceph

NAMES = ["a/b", "..", "a@s", "line\nfeed", "%41", "n" * 1000, "\u00e4", "\udcff\udcfe", " x "]


def executor(ioctx: rados.Ioctx) -> pool_directory.Execute:
    async def execute(oid: str, method: str, argument: bytes) -> bytes:
        call = functools.partial(pool_directory.call_class, ioctx, oid, method, argument)
        return await trio.to_thread.run_sync(call)

    return execute


def strings(*values: bytes) -> bytes:
    return struct.pack("<I", len(values)) + b"".join(map(encode_string, values))


def pairs(*values: bytes) -> bytes:
    return struct.pack("<I", len(values) // 2) + b"".join(map(encode_string, values))


def tmap(*names: bytes) -> bytes:
    return encode_string(b"") + pairs(*(part for name in names for part in (name, b"")))


@pytest.fixture
def ioctx(ceph: Ceph) -> Iterator[rados.Ioctx]:
    """A pool of one test: its listing is complete."""
    with (
        ceph.temporary_pool("directory") as name,
        ceph.connect() as cluster,
        cluster.open_ioctx(name) as ioctx,
    ):
        yield ioctx


async def test_names_of_all_kinds(ceph: Ceph, ioctx: rados.Ioctx) -> None:
    execute = executor(ioctx)
    assert await pool_directory.list_images(execute) == []
    strange = "\udcff\udcfe"
    for name in NAMES:
        if name != strange:
            rbd.RBD().create(ioctx, name, 1 << 20, features=1, old_format=False)
    known = {(entry["name"], entry["id"]) for entry in rbd.RBD().list2(ioctx)}
    ceph.rbd("create", "--size=1M", f"{ioctx.name}/{strange}")
    with pytest.raises(UnicodeDecodeError):
        list(rbd.RBD().list2(ioctx))
    images = await pool_directory.list_images(execute)
    assert {image for image in images if image[0] != strange} == known
    assert [name for name, _ in images] == sorted(NAMES, key=os.fsencode)


async def test_more_images_than_a_page_holds(
    ioctx: rados.Ioctx, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last page is full, short or empty: none is read twice, none is left out."""
    execute = executor(ioctx)
    monkeypatch.setattr(pool_directory, "_PAGE_NAMES", 3)
    for number in range(7):
        rbd.RBD().create(ioctx, f"vm{number}", 1 << 20, features=1, old_format=False)
        names = [name for name, _ in await pool_directory.list_images(execute)]
        assert names == [f"vm{n}" for n in range(number + 1)]


async def test_namespaces_and_the_images_in_them(
    ceph: Ceph, ioctx: rados.Ioctx, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await pool_directory.list_namespaces(executor(ioctx)) == []
    for namespace in ("tenant-b", "tenant-a", "\udcff"):
        ceph.rbd("namespace", "create", f"{ioctx.name}/{namespace}")
    ceph.rbd("create", "--size=1M", f"{ioctx.name}/tenant-a/vm")
    monkeypatch.setattr(pool_directory, "_PAGE_NAMES", 2)
    namespaces = await pool_directory.list_namespaces(executor(ioctx))
    assert namespaces == ["tenant-a", "tenant-b", "\udcff"]
    assert await pool_directory.list_images(executor(ioctx)) == []
    ioctx.set_namespace("tenant-a")
    assert [name for name, _ in await pool_directory.list_images(executor(ioctx))] == ["vm"]


async def test_an_answer_larger_than_the_first_buffer(
    ioctx: rados.Ioctx, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        rbd.RBD().create(ioctx, f"vm{number}", 1 << 20, features=1, old_format=False)
    monkeypatch.setattr(pool_directory, "_FIRST_ANSWER_BYTES", 8)
    assert len(await pool_directory.list_images(executor(ioctx))) == 4
    monkeypatch.setattr(pool_directory, "_MAX_ANSWER_BYTES", 8)
    with pytest.raises(OSError, match="rbd_directory: dir_list"):
        await pool_directory.list_images(executor(ioctx))


def test_images_of_format_1_as_librbd_lists_them(ioctx: rados.Ioctx) -> None:
    """librbd makes no such image any more, so the directory is written here."""
    rbd.RBD().create(ioctx, "new", 1 << 20)
    assert pool_directory.decode_v1_directory(ioctx.read("rbd_directory")) == []
    ioctx.write_full("rbd_directory", tmap(b"old1", b"old2"))
    listed = [entry["name"] for entry in rbd.RBD().list2(ioctx) if not entry["id"]]
    assert (
        pool_directory.decode_v1_directory(ioctx.read("rbd_directory"))
        == listed
        == ["old1", "old2"]
    )


def test_a_name_of_format_1_that_is_not_utf8() -> None:
    assert pool_directory.decode_v1_directory(tmap(b"a", b"\xff")) == ["a", "\udcff"]


@pytest.mark.parametrize("data", [tmap(b"a")[:-1], tmap(b"a") + b"\0", b"\xff" * 8])
def test_a_strange_directory_of_format_1_is_not_understood(data: bytes) -> None:
    with pytest.raises(NotUnderstood):
        pool_directory.decode_v1_directory(data)


@given(st.binary(max_size=60))
def test_garbage_is_understood_or_not_and_nothing_else(answer: bytes) -> None:
    async def execute(_oid: str, _method: str, _argument: bytes) -> bytes:
        return answer

    with contextlib.suppress(NotUnderstood):
        pool_directory.decode_v1_directory(answer)
    for listing in (pool_directory.list_images, pool_directory.list_namespaces):
        with contextlib.suppress(NotUnderstood):
            trio.run(listing, execute)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(pairs(b"a", b"1")[:-1], id="truncated"),
        pytest.param(pairs(b"a", b"1") + b"\0", id="too long"),
        pytest.param(pairs(b"a", b"1", b"b", b"2"), id="the same page again"),
    ],
)
async def test_a_strange_answer_is_not_understood(
    answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def execute(_oid: str, _method: str, _argument: bytes) -> bytes:
        return answer

    monkeypatch.setattr(pool_directory, "_PAGE_NAMES", 2)
    with pytest.raises(NotUnderstood):
        await pool_directory.list_images(execute)


async def test_a_failing_cluster_is_not_an_empty_pool() -> None:
    async def execute(_oid: str, _method: str, _argument: bytes) -> bytes:
        raise PermissionError(1, "no")

    with pytest.raises(PermissionError):
        await pool_directory.list_images(execute)


@pytest.mark.parametrize("image_id", ["1", "10219025976e", "abc-DEF_9.~"])
def test_what_librbd_may_have_made_is_an_id(image_id: str) -> None:
    assert pool_directory.is_image_id(image_id)


@pytest.mark.parametrize(
    "image_id", ["", "/1", "a/b", "a b", "a\0", "\n", "\udcff", "\u00e4", "x" * 1025]
)
def test_what_names_no_object_or_another_is_no_id(image_id: str) -> None:
    assert not pool_directory.is_image_id(image_id)
