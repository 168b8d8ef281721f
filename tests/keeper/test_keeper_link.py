"""What a server tells its keeper arrives, whatever the kernel has room and memory for."""

from __future__ import annotations

import errno
import json
import os
import socket
from typing import TYPE_CHECKING, Any

from rbdfs.files.keeping import Unremembered
from rbdfs.fuse.directory_handles import OpenDirectories
from rbdfs.keeper.messages import MESSAGE_BYTES
from rbdfs.model.entry import Entry, Key
from rbdfs.server.keeper_link import KeeperLink

if TYPE_CHECKING:
    import pytest

DIRECTORY = Entry(Key(1, ""), pool="rbd")


class ScarceSocket(socket.socket):
    """One whose packets the kernel has no memory for, a few times."""

    failures = 3

    def send(self, *arguments: Any) -> int:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
        return super().send(*arguments)


async def test_no_memory_for_a_packet() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, ScarceSocket(fileno=ours.detach()) as scarce:
        link = KeeperLink(scarce, 2)
        link.tell("status", files=[])
        link.tell("grown", fh=1)
        await link.delivered()
        told = [json.loads(theirs.recv(256))["event"] for _ in range(2)]
    assert told == ["status", "grown"]


def test_names_that_are_all_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The record of an answer to READDIR fits into a message, in whatever script its names are."""
    records: list[Any] = []
    keeping = Unremembered()
    monkeypatch.setattr(keeping, "opened_directory", lambda *told: records.append(told[-1]))
    catalog: Any = type("Catalog", (), {"listing": staticmethod(lambda _entry: None)})
    directories = OpenDirectories(catalog, keeping)
    fh = directories.open(1, DIRECTORY)
    names = [
        ("\N{CJK UNIFIED IDEOGRAPH-9AD4}" * 80 + f"{number}").encode() for number in range(500)
    ]
    directories.answered(fh, 0, 0, names)
    record = records[-1]
    assert 50 < len(record["names"]) < 500
    assert record["names"][-1].encode() == names[-1]
    assert record["first"] == 500 - len(record["names"])
    assert len(json.dumps(record)) < MESSAGE_BYTES / 2
