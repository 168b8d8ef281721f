"""Records of live migrations, whoever wrote them."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbdfs.errors import NotUnderstood
from rbdfs.metadata.migration_record import MigrationHeader, State, decode_migration


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
