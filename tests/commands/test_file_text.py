"""What a server says of a file is told as text, or is no answer: anybody may be the server."""

from __future__ import annotations

import errno
import json
from typing import Any

import pytest

from rbdfs.commands import stat
from rbdfs.errors import UserError
from rbdfs.kernel.mount import Entry

COMPLETE: dict[str, Any] = {
    "type": "image",
    "spec": "rbd/vm\x1b[31m",
    "image_id": "id\nand more",
    "size": 1536,
    "object_size": 4096,
    "features": ["\x07bell"],
    "parents": None,
    "locks": [{"client": "\x9b", "address": "a", "exclusive": False, "cookie": "c", "ours": False}],
    "snapshots": [
        {"name": "s", "id": 1, "size": 1, "time": None, "protected": True, "namespace": "trash"}
    ],
    "mirroring": {"state": "on", "mode": "journal", "primary": False, "global_id": "g"},
    "open": {"readers": 1, "writers": 0, "growing": True, "failed": "gone\x1b"},
    "not_known": {"parents": "no\x1bway"},
    "left_out": {"snapshots": 2},
}


class Served:
    """A file whose server says what it is given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.value = b""
        entry = Entry(1, "0:1", "/mnt", "fuse.rbdfs", 0, False, "rbd")
        monkeypatch.setattr(stat, "mount_of", lambda _path: entry)
        monkeypatch.setattr(stat, "read_attribute", lambda *_arguments: self.value)

    def text(self, value: object) -> str:
        self.value = value if isinstance(value, bytes) else json.dumps(value).encode()
        return stat._text(stat._report("/mnt/vm1"))


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Served:
    return Served(monkeypatch)


def test_no_character_is_obeyed_by_a_terminal(served: Served) -> None:
    text = served.text(COMPLETE)
    assert "".join(text.split("\n")).isprintable()
    assert text.splitlines() == [
        "File:      /mnt/vm1",
        r"Type:      image rbd/vm\x1b[31m, id id\nand more",
        "Size:      1.5 KiB (1536 bytes), growing, in objects of 4 KiB",
        r"Features:  \x07bell",
        r"Parents:   not known: no\x1bway",
        r"Locks:     \x9b at a, advisory (c)",
        "Open here: readers 1, writers 0",
        r"           failed: gone\x1b",
        "Mirroring: on, journal, not primary, global id g",
        "Snapshots: s, id 1, 1 B, protected, of the trash",
        "           and 2 more",
    ]


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xff",
        b"[" * 60000,
        [],
        1,
        {},
        COMPLETE | {"left_out": None},
        COMPLETE | {"not_known": []},
        COMPLETE | {"size": "1"},
        COMPLETE | {"size": [1]},
        COMPLETE | {"locks": [1]},
        COMPLETE | {"snapshots": 7},
        COMPLETE | {"snapshots": [COMPLETE["snapshots"][0] | {"time": "yesterday"}]},
        COMPLETE | {"snapshots": [COMPLETE["snapshots"][0] | {"time": 5}]},
        COMPLETE | {"snapshots": [COMPLETE["snapshots"][0] | {"time": "0001-01-01T00:00+23:59"}]},
        COMPLETE | {"features": [1]},
        COMPLETE | {"mirroring": "no"},
        COMPLETE | {"open": {}},
        COMPLETE | {"left_out": {"snapshots": "many"}},
    ],
    ids=str,
)
def test_what_makes_no_sense_is_no_answer(served: Served, value: object) -> None:
    with pytest.raises(UserError, match="'/mnt/vm1': what its server says is no answer"):
        served.text(value)


def test_a_server_says_nothing_of_where_it_is(served: Served) -> None:
    text = served.text(COMPLETE | {"file": "/other", "mountpoint": "/elsewhere"})
    assert text.startswith("File:      /mnt/vm1\n")


def test_numbers_without_an_end(served: Served) -> None:
    for size in (1e308, float("inf"), float("nan"), -5, 10**400):
        with pytest.raises(UserError, match="no answer"):
            served.text(COMPLETE | {"size": size})


@pytest.mark.parametrize("code", [errno.ENODATA, errno.EOPNOTSUPP])
def test_a_server_of_an_older_version(
    served: Served, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fail(*_arguments: object) -> bytes:
        raise OSError(code, "no such attribute")

    monkeypatch.setattr(stat, "read_attribute", fail)
    with pytest.raises(UserError, match="older version .'rbdfs restart /mnt'."):
        served.text(COMPLETE)
