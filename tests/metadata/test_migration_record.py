"""Records of live migrations, whoever wrote them."""

from __future__ import annotations

import contextlib
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbdfs.errors import Missing, NotUnderstood
from rbdfs.metadata.migration_record import (
    MigrationHeader,
    State,
    decode_migration,
    disown_source,
    list_migration_sources,
)


def string(value: bytes) -> bytes:
    return struct.pack("<I", len(value)) + value


def record(namespace: bytes = b"space", image_id: bytes = b"10219025976e", state: int = 2) -> bytes:
    body = b"\2" + struct.pack("<q", 3) + string(namespace) + string(b"vm") + string(image_id)
    body += struct.pack("<IQQQ", 1, 4, 5, 1 << 20) + bytes([0, 0, state]) + string(b"")
    return struct.pack("<BBI", 3, 1, len(body)) + body


def test_the_record_of_a_target() -> None:
    assert decode_migration(record()) == MigrationHeader(
        False, 3, "space", "vm", "10219025976e", State.PREPARED
    )


def test_the_record_of_an_import_from_elsewhere() -> None:
    """From no pool, no image and no id, but a text that only readers of version 3 know."""
    body = b"\2" + struct.pack("<q", -1) + 3 * string(b"")
    body += struct.pack("<IQ", 0, 1 << 20) + bytes([0, 0, 3]) + string(b"")
    body += b"\0" + string(b'{"type":"raw","stream":{"type":"file","file_path":"/vm"}}')
    assert decode_migration(struct.pack("<BBI", 3, 3, len(body)) + body) == MigrationHeader(
        False, -1, "", "", "", State.EXECUTING
    )


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(record(image_id=b"/vm"), id="no id"),
        pytest.param(record(image_id=b"\xff"), id="id not ASCII"),
        pytest.param(record(namespace=b"a\0b"), id="NUL in the namespace"),
        pytest.param(record(namespace=b"\xff"), id="namespace not UTF-8"),
        pytest.param(record(state=9), id="state"),
        pytest.param(record()[:-9], id="cut"),
        pytest.param(b"", id="empty"),
    ],
)
def test_what_makes_no_sense_is_not_understood(data: bytes) -> None:
    with pytest.raises(NotUnderstood):
        decode_migration(data)


@given(data=st.binary(max_size=80), at=st.integers(0, len(record())))
def test_garbage_is_understood_or_not_and_nothing_else(data: bytes, at: int) -> None:
    for candidate in (data, record()[:at] + data + record()[at + len(data) :]):
        with contextlib.suppress(NotUnderstood):
            decode_migration(candidate)


def trash_spec(source: int = 2, name: bytes = b"vm", tail: bytes = bytes(24)) -> bytes:
    body = bytes([source]) + string(name) + tail
    return struct.pack("<BBI", 2, 1, len(body)) + body


class Trash:
    """A pool as its ioctx, with one answer of the object class."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self.written: list[bytes] = []

    def execute(
        self, oid: str, cls: str, method: str, argument: bytes, length: int
    ) -> tuple[int, bytes]:
        return 0, self._answer

    def set_omap(self, operation: object, keys: tuple[str, ...], values: tuple[bytes, ...]) -> None:
        self.written += values

    def operate_write_op(self, operation: object, oid: str) -> None: ...


def test_sources_in_the_trash() -> None:
    # What others have put there: a user, rbd-mirror, a removal, that of a parent, the future.
    others = [string(b"102%d" % source) + trash_spec(source=source) for source in (0, 1, 3, 4, 5)]
    entries = [*others, string(b"1019") + trash_spec()]
    trash: Any = Trash(struct.pack("<I", len(entries)) + b"".join(entries))
    assert list_migration_sources(trash) == {"1019": "vm"}


@pytest.mark.parametrize("source", [0, 1, 3, 4, 5])
def test_what_is_there_for_another_reason_is_left_alone(source: int) -> None:
    trash: Any = Trash(trash_spec(source=source))
    with pytest.raises(Missing):
        disown_source(trash, "1019")
    assert trash.written == []


@pytest.mark.parametrize("image_id", [b"\xff", b"", b"a/b", b"a b", b"x" * 1025])
def test_a_source_with_an_id_that_is_none(image_id: bytes) -> None:
    trash: Any = Trash(struct.pack("<I", 1) + string(image_id) + trash_spec())
    with pytest.raises(NotUnderstood):
        list_migration_sources(trash)


def test_disowning_changes_source_and_state() -> None:
    trash: Any = Trash(trash_spec(tail=bytes(16) + b"\7" + bytes(3)))
    disown_source(trash, "1019")
    assert trash.written == [trash_spec(source=0, tail=bytes(20))]


@pytest.mark.parametrize("length", range(8, len(trash_spec(tail=bytes(17)))))
def test_what_is_cut_in_the_trash_is_left_alone(length: int) -> None:
    cut = trash_spec()[6:length]
    trash: Any = Trash(struct.pack("<BBI", 2, 1, len(cut)) + cut)
    with pytest.raises(NotUnderstood):
        disown_source(trash, "1019")
    assert trash.written == []


def test_more_than_the_length_says_is_left_alone() -> None:
    """The state would be in what follows, which is nobody knows what."""
    trash: Any = Trash(trash_spec(tail=b"") + bytes(24))
    with pytest.raises(NotUnderstood):
        disown_source(trash, "1019")
    assert trash.written == []
