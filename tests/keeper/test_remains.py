"""What dead mounts have left: files that may be of another version, or damaged by a full disk."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from rbdfs.keeper import remains
from rbdfs.keeper.remains import Remains, remains_of

if TYPE_CHECKING:
    from pathlib import Path

ADDRESS = "10.0.0.1:0/7"


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(remains, "runtime_directory", lambda: tmp_path)
    return tmp_path


def test_what_a_living_mount_has_is_not_taken(directory: Path) -> None:
    left = Remains("/m")
    left.keep("0:61", [ADDRESS])
    with remains_of("/m") as addresses:
        assert addresses == []
    assert list(directory.iterdir())
    left.close()
    assert not list(directory.iterdir())


@pytest.mark.parametrize(
    "damaged",
    [
        *(b"", b"{", b"\xff", b"[]", b"7", b"nan", b"[" * 60_000, b'{"a":' * 10_000),
        b'{"mountpoint": "/m", "addresses": 5}',
        b'{"mountpoint": "/m", "addresses": null}',
        b'{"mountpoint": "/m", "addresses": "10.0.0.1:0/1"}',
        b'{"mountpoint": "/m", "addresses": {"10.0.0.1:0/1": 1}}',
        b'{"mountpoint": "/m", "addresses": [7, null, []]}',
        b'{"mountpoint": ["/m"], "addresses": ["10.0.0.1:0/1"]}',
    ],
    ids=lambda damaged: ascii(damaged[:40]),
)
def test_a_damaged_file_stops_no_mount(directory: Path, damaged: bytes) -> None:
    (directory / "0-1.clients").write_bytes(damaged)
    (directory / "0-2.clients").write_text(json.dumps({"mountpoint": "/m", "addresses": [ADDRESS]}))
    with remains_of("/m") as addresses:
        assert addresses == [ADDRESS]
    assert not (directory / "0-2.clients").exists()
