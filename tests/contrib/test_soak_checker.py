"""The checker of contrib/soak: it finds each kind of violation, and nothing in what is right."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest
from soaking import content
from soaking.checker import check, check_log
from soaking.disks import Disk
from soaking.operations import Event, Finding, History, Operation, Window

A_DISK = Disk("a/disk", 1, 0, 64)
A_PART = Disk("b/disk", 2, 16, 32, "b/disk-part1")
BLOCK = content.BLOCK
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL
OVERWRITE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC


class Telling:
    """Makes a history: each call is an operation of a second, one after the other."""

    def __init__(self) -> None:
        self.history = History()
        self.now = 100.0

    def __call__(
        self,
        kind: str,
        *,
        user: int = 0,
        mount: int = 0,
        answer: Any = None,
        error: int | None = None,
        start: float | None = None,
        end: float | None = None,
        **args: Any,
    ) -> None:
        begun = self.now if start is None else start
        ended = begun + 1 if end is None else end
        self.now = max(self.now, ended) + 1
        index = len(self.history.events)
        operation = Operation(kind, args, "story")
        self.history.events.append(
            Event(user, mount, index, operation, begun, ended, error, answer)
        )

    def made(self, path: str, size: int, version: int = 1, flags: int = NEW) -> None:
        """Tell how a file was made of one write."""
        self("open", slot="s", path=path, flags=flags)
        self("write", slot="s", file=9, version=version, off=0, size=size, answer=size)
        self("close", slot="s")

    def fault(self, kind: str, start: float, end: float, mount: int = 0) -> None:
        self.history.windows.append(Window(kind, start, end, mount))

    def findings(self) -> list[Finding]:
        return check(self.history, (A_DISK, A_PART))

    def checks(self) -> set[str]:
        return {finding.check for finding in self.findings()}


@pytest.fixture
def tell() -> Telling:
    return Telling()


def written(version: int, size: int, off: int = 0) -> bytes:
    return content.pattern(9, 0, version, off, size)


# Files of one user.


def test_what_is_right_is_no_finding(tell: Telling) -> None:
    path = "a/f"
    tell.made(path, 5000)
    tell("stat", path=path, answer=5000)
    tell("read_all", path=path, how="read", answer=written(1, 5000))
    tell("link", path=path, to=f"{path}@s")
    tell.made(path, 100, version=2, flags=OVERWRITE)
    tell("read_all", path=f"{path}@s", how="read", answer=written(1, 5000))
    tell("truncate", path=path, size=50)
    tell("rename", path=path, to="b/g")
    tell("stat", path=path, error=errno.ENOENT)
    tell("export", path="b/g", answer=written(2, 50))
    tell("listing", user=1, path="b", answer=["g", "g@s"])
    tell("unlink", path="b/g")
    tell("listing", user=1, path="b", answer=[])
    tell("mkdir", path="a/d")
    tell("mkdir", path="a/d", error=errno.EEXIST)
    tell("listing", user=1, path="a", answer=["d"])
    tell("rmdir", path="a/d")
    tell("rmdir", path="a/d", error=errno.ENOENT)
    assert tell.findings() == []


def test_an_overwritten_file_has_its_old_end(tell: Telling) -> None:
    tell.made("a/f", 5000)
    tell.made("a/f", 6, version=2, flags=OVERWRITE)
    tell("export", path="a/f", answer=written(2, 6) + written(1, 5000)[6:])
    assert tell.checks() == {"wrong content"}


def test_wrong_at_the_end_only(tell: Telling) -> None:
    tell.made("a/f", 5000)
    tell.history.exports = {"a/f": bytes(5000), "a/disk": bytes(64 * BLOCK)}
    tell.history.exports["b/disk"] = bytes(48 * BLOCK)
    assert tell.checks() == {"wrong content"}
    tell.history.exports["a/f"] = written(1, 5000)
    assert tell.findings() == []
    tell.history.exports["a/f"] = None
    assert tell.checks() == {"lost file"}


@pytest.mark.parametrize("kind", ["stat", "fstat"])
def test_a_size_of_before(tell: Telling, kind: str) -> None:
    tell.made("a/f", 5000)
    tell("open", slot="t", path="a/f", flags=os.O_RDONLY)
    where: dict[str, Any] = {"path": "a/f"} if kind == "stat" else {"slot": "t"}
    tell(kind, **where, answer=0)
    assert tell.checks() == {"wrong size"}


@pytest.mark.parametrize(
    ("kind", "args", "error"),
    [
        ("open", {"slot": "t", "path": "a/new", "flags": NEW}, errno.EEXIST),
        ("unlink", {"path": "a/f"}, errno.ENOENT),
        ("rename", {"path": "a/f", "to": "a/g"}, errno.ENOENT),
        ("link", {"path": "a/f", "to": "a/f@s"}, errno.EEXIST),
        ("rename", {"path": "a/f", "to": "b/f"}, errno.EEXIST),
        ("rename", {"path": "a/f", "to": "b/f"}, errno.EBUSY),
        ("read_all", {"path": "a/f", "how": "read"}, errno.EIO),
        ("truncate", {"path": "a/f", "size": 1}, errno.EBUSY),
        ("mkdir", {"path": "a/d"}, errno.EEXIST),
        ("rmdir", {"path": "a/made"}, errno.ENOENT),
    ],
)
def test_an_answer_that_no_server_may_give(
    tell: Telling, kind: str, args: dict[str, Any], error: int
) -> None:
    """What was done by a server that was killed is done, whoever is asked again."""
    tell.made("a/f", 10)
    tell("mkdir", path="a/made")
    tell.fault("kill", tell.now, tell.now + 1)
    tell(kind, **args, error=error)
    assert tell.checks() == {"wrong answer"}


def test_an_image_that_was_moved_is_busy_for_a_while(tell: Telling) -> None:
    tell.made("a/f", 10)
    tell("rename", path="a/f", to="b/f")
    tell("rename", path="b/f", to="a/f", error=errno.EBUSY)
    tell("truncate", path="b/f", size=1, error=errno.EBUSY)
    assert tell.findings() == []


def test_success_where_there_is_nothing(tell: Telling) -> None:
    tell.made("a/f", 10)
    tell("unlink", path="a/f")
    tell("stat", path="a/f", answer=10)
    assert tell.checks() == {"wrong answer"}


@pytest.mark.parametrize("emptied_by", ["O_TRUNC", "ftruncate"])
def test_what_was_emptied_does_not_grow(tell: Telling, emptied_by: str) -> None:
    tell.made("a/f", 100)
    flags = OVERWRITE if emptied_by == "O_TRUNC" else os.O_WRONLY | os.O_CREAT
    tell("open", slot="t", path="a/f", flags=flags)
    if emptied_by == "ftruncate":
        tell("ftruncate", slot="t", size=0)
    tell("write", slot="t", file=9, version=2, off=0, size=10, error=errno.ENOSPC)
    assert tell.checks() == {"wrong answer"}


def test_what_exists_does_not_grow(tell: Telling) -> None:
    tell.made("a/f", 100)
    tell("open", slot="t", path="a/f", flags=os.O_WRONLY)
    tell("write", slot="t", file=9, version=2, off=90, size=20, answer=10)
    tell("write", slot="t", file=9, version=2, off=100, size=20, error=errno.ENOSPC)
    assert tell.findings() == []
    tell("write", slot="t", file=9, version=2, off=90, size=20, answer=20)
    assert tell.checks() == {"short write"}


def test_writers_whose_file_was_cut(tell: Telling) -> None:
    shape: dict[str, Any] = {"writers": 2, "chunks": 2, "chunk": 4096, "closing": "dup"}
    shape |= {"file": 9, "version": 1}
    tell("storm", path="a/f", **shape, answer={"errors": []})
    tell("read_all", path="a/f", how="read", answer=written(1, 4 * 4096))
    assert tell.findings() == []
    tell("storm", path="a/g", **shape, answer={"errors": ["writer 1: Invalid argument"]})
    assert tell.checks() == {"wrong answer"}
    tell.history.events.pop()
    tell("read_all", path="a/f", how="read", answer=written(1, 2 * 4096) + bytes(2 * 4096))
    assert tell.checks() == {"wrong content"}


def test_a_snapshot_that_changed(tell: Telling) -> None:
    tell.made("a/f", 5000)
    tell("link", path="a/f", to="a/f@s")
    tell.made("a/f", 5000, version=2, flags=OVERWRITE)
    tell("read_all", path="a/f@s", how="read", answer=written(2, 5000))
    assert tell.checks() == {"wrong content"}


def test_changes_elsewhere_that_are_not_seen(tell: Telling) -> None:
    tell("rbd", arguments=["create", "--size=4096B", ":a/o"], answer="")
    tell("wait_for", path="a/o", size=4096, seconds=20, answer=1.5)
    assert tell.findings() == []
    tell("rbd", arguments=["rm", ":a/o"], answer="")
    tell("wait_for", path="a/o", size=None, seconds=20, answer=None, end=tell.now + 20)
    assert tell.checks() == {"not seen"}


# What faults excuse.


@pytest.mark.parametrize(
    ("kind", "error", "allowed"),
    [
        ("crash", errno.ENOTCONN, True),
        ("crash", errno.ENOENT, True),
        ("crash", errno.EIO, False),
        ("blocklist", errno.ESHUTDOWN, True),
        ("blocklist", errno.ENOTCONN, False),
        ("kill", errno.ENOTCONN, False),
        ("kill", errno.ENOENT, False),
        ("kill", errno.EIO, False),
        ("restart", errno.EBADF, False),
        ("osd", errno.ETIMEDOUT, False),
        ("mon", errno.EIO, False),
    ],
)
def test_errors_under_a_fault(tell: Telling, kind: str, error: int, allowed: bool) -> None:
    tell("open", slot="t", path="a/f", flags=NEW)
    tell.fault(kind, tell.now, tell.now + 3)
    tell("write", slot="t", file=9, version=1, off=0, size=10, error=error)
    assert (tell.findings() == []) == allowed


def test_a_fault_excuses_nothing_before_nothing_later_and_not_the_other_mount(
    tell: Telling,
) -> None:
    tell.made("a/f", 10)
    tell.fault("crash", tell.now + 100, tell.now + 103)
    tell.fault("crash", tell.now, tell.now + 200, mount=1)
    tell("stat", path="a/f", error=errno.ENOTCONN)
    assert tell.checks() == {"wrong answer"}
    tell.history.windows[0] = Window("crash", 0, 1)
    assert tell.checks() == {"wrong answer"}


@pytest.mark.parametrize(
    ("kind", "fault", "allowed"),
    [
        ("close", "osd", True),
        ("close", "mon", True),
        ("close", "kill", False),
        ("read", "osd", False),
    ],
)
def test_a_close_does_not_wait_for_the_cluster(
    tell: Telling, kind: str, fault: str, allowed: bool
) -> None:
    """Of either mount: what they ask is the same."""
    tell("open", slot="t", path="a/f", flags=NEW)
    tell.fault(fault, tell.now, tell.now + 3, mount=1)
    args = {"off": 0, "size": 10} if kind == "read" else {}
    tell(kind, slot="t", **args, error=errno.ETIMEDOUT)
    assert (tell.findings() == []) == allowed


def test_what_the_mount_before_changes_is_seen_later(tell: Telling) -> None:
    tell.made("a/f", 5000)
    tell("open", slot="t", path="a/f", flags=os.O_RDWR)
    tell.fault("remount", tell.now, tell.now + 1)
    tell.now += 2
    tell("ftruncate", slot="t", size=10)
    tell("stat", path="a/f", answer=5000)
    tell("fstat", slot="t", answer=10)
    assert tell.findings() == []
    tell.now += 60
    tell("stat", path="a/f", answer=5000)
    assert tell.checks() == {"wrong size"}


def test_after_a_crash_writes_are_possible_soon(tell: Telling) -> None:
    tell.made("a/f", 10)
    tell.fault("crash", tell.now, tell.now + 1)
    tell("truncate", path="a/f", size=5, error=errno.EBUSY, start=tell.now + 2)
    assert tell.findings() == []
    tell.history.events.pop()
    tell("truncate", path="a/f", size=5, error=errno.EBUSY, start=tell.now + 20)
    assert tell.checks() == {"wrong answer"}


def test_a_file_whose_write_failed_is_not_believed(tell: Telling) -> None:
    tell.made("a/f", 5000)
    tell("open", slot="t", path="a/f", flags=os.O_WRONLY)
    tell.fault("blocklist", tell.now, tell.now + 1)
    tell("write", slot="t", file=9, version=2, off=0, size=10, error=errno.ESHUTDOWN)
    tell("close", slot="t", error=errno.ESHUTDOWN)
    tell("read_all", path="a/f", how="read", answer=written(2, 10) + written(1, 5000)[10:])
    assert tell.findings() == []


# Listings.


def test_listings(tell: Telling) -> None:
    tell("listing", user=1, path="a", answer=["f"], end=tell.now + 10)
    tell.now -= 8
    tell.made("a/f", 10)
    assert tell.findings() == [], "it was made while it was listed"
    tell("listing", user=1, path="a", answer=[])
    assert tell.checks() == {"wrong listing"}
    tell.history.events.pop()
    tell("unlink", path="a/f")
    tell("listing", user=1, mount=1, path="a", answer=["f"])
    assert tell.findings() == [], "another mount may show it for a while"
    tell("listing", user=1, path="a", answer=["f"])
    assert tell.checks() == {"wrong listing"}
    tell.history.events.pop()
    tell("listing", user=1, mount=1, path="a", answer=["f"], start=tell.now + 20)
    assert tell.checks() == {"wrong listing"}


def test_a_listing_that_fails(tell: Telling) -> None:
    tell("listing", path="a", error=errno.EIO)
    assert tell.checks() == {"wrong answer"}


# Disks.


def disk_write(tell: Telling, version: int, block: int = 3, user: int = 0, **when: Any) -> None:
    where: dict[str, Any] = {"slot": "d", "off": block * BLOCK, "size": BLOCK}
    when = {"answer": BLOCK} | when
    tell("write", user=user, file=1, version=version, **where, **when)


def disk_read(tell: Telling, data: bytes, block: int = 3, user: int = 1, **when: Any) -> None:
    where: dict[str, Any] = {"slot": "d", "off": block * BLOCK, "size": len(data)}
    tell("read", user=user, answer=data, **where, **when)


def block_of(version: int, block: int = 3, user: int = 0) -> bytes:
    return content.pattern(1, user, version, block * BLOCK, BLOCK)


@pytest.fixture
def disk(tell: Telling) -> Telling:
    """A history in which users 0 and 1 have the disk open, and 0 has written block 3 twice."""
    for user in (0, 1):
        tell("open", user=user, slot="d", path="a/disk", flags=os.O_RDWR)
    disk_write(tell, 1)
    disk_write(tell, 2)
    return tell


def test_the_last_write_is_read(disk: Telling) -> None:
    disk_read(disk, block_of(2))
    disk_read(disk, bytes(2 * BLOCK), block=10)
    assert disk.findings() == []


@pytest.mark.parametrize(
    "data",
    [
        block_of(1),
        bytes(BLOCK),
        block_of(3),
        block_of(2, block=4),
        block_of(2, user=1),
        b"x" * BLOCK,
        block_of(2)[:2048] + block_of(1)[2048:],
        block_of(2)[:2048] + bytes(2048),
    ],
    ids=["older", "zeros", "never written", "elsewhere", "of another", "damaged", "torn", "half"],
)
def test_what_was_not_written_last(disk: Telling, data: bytes) -> None:
    disk_read(disk, data)
    assert disk.checks() == {"wrong content"}


def test_either_of_two_while_one_is_written(disk: Telling) -> None:
    start = disk.now
    disk_write(disk, 3, start=start, end=start + 10)
    disk_read(disk, block_of(2), start=start + 1, end=start + 2)
    disk_read(disk, block_of(3)[:2048] + block_of(2)[2048:], start=start + 3, end=start + 4)
    disk_read(disk, block_of(3), start=start + 5, end=start + 6)
    assert disk.findings() == []
    disk_read(disk, block_of(2), start=start + 7, end=start + 8)
    assert disk.checks() == {"wrong content"}, "the new one had been read before"


def test_a_write_that_failed_may_land_or_not(disk: Telling) -> None:
    disk.fault("blocklist", disk.now, disk.now + 1)
    disk_write(disk, 3, error=errno.ESHUTDOWN, answer="fenced")
    disk_read(disk, block_of(2))
    disk_read(disk, block_of(3))
    assert disk.findings() == []
    disk_read(disk, block_of(1))
    assert disk.checks() == {"wrong content"}


def test_an_error_of_a_disk(disk: Telling) -> None:
    disk_write(disk, 3, error=errno.EIO, answer="no")
    assert disk.checks() == {"wrong answer"}


def test_a_hole_that_was_punched(disk: Telling) -> None:
    disk("fallocate", slot="d", mode=3, off=3 * BLOCK, size=BLOCK)
    disk_read(disk, bytes(BLOCK))
    assert disk.findings() == []
    disk_read(disk, block_of(2))
    assert disk.checks() == {"wrong content"}


def test_a_partition_is_a_part_of_its_disk(tell: Telling) -> None:
    tell("open", slot="p", path="b/disk-part1", flags=os.O_RDWR)
    tell("write", slot="p", file=2, version=1, off=0, size=BLOCK, answer=BLOCK)
    whole = bytearray(48 * BLOCK)
    whole[16 * BLOCK : 17 * BLOCK] = content.pattern(2, 0, 1, 0, BLOCK)
    tell("read_all", path="b/disk", how="read", answer=bytes(whole))
    tell("read_all", path="b/disk-part1", how="read", answer=bytes(whole[16 * BLOCK :]))
    assert tell.findings() == []
    tell("read_all", path="b/disk", how="read", answer=bytes(48 * BLOCK))
    assert tell.checks() == {"wrong content"}


def test_a_snapshot_of_a_disk(disk: Telling) -> None:
    disk("link", path="a/disk", to="a/disk@s")
    whole = bytearray(64 * BLOCK)
    whole[3 * BLOCK : 4 * BLOCK] = block_of(2)
    disk_write(disk, 3)
    disk("read_all", user=1, path="a/disk@s", how="read", answer=bytes(whole))
    assert disk.findings() == []
    whole[3 * BLOCK : 4 * BLOCK] = block_of(3)
    disk("read_all", user=1, path="a/disk@s", how="seek", answer=bytes(whole))
    assert disk.checks() == {"snapshot changed"}
    disk.history.events.pop(-2)
    assert disk.checks() == {"wrong content"}, "it was taken before that write"


def test_short_reads_and_wrong_sizes(disk: Telling) -> None:
    disk_read(disk, bytes(BLOCK), block=20)
    assert disk.findings() == []
    disk("read", slot="d", off=20 * BLOCK, size=2 * BLOCK, answer=bytes(BLOCK))
    disk("fstat", slot="d", answer=0)
    assert disk.checks() == {"short read", "wrong size"}


def test_what_is_known_waits_for_nothing(tell: Telling) -> None:
    start = tell.now
    tell("listing", path="a", answer=[], end=start + 7)
    tell.fault("osd", start, start + 30)
    assert tell.findings() == [], "it was not known"
    tell("listing", path="a", answer=[], end=tell.now + 3)
    assert tell.findings() == []
    tell("listing", path="a", answer=[], end=tell.now + 7)
    assert tell.checks() == {"slow"}
    tell.history.windows[0] = Window("restart", start, start + 30)
    assert tell.findings() == []


# What is no history of answers.


def test_findings_of_the_episode_are_kept(tell: Telling) -> None:
    tell.history.findings.append(Finding("hang", "no end"))
    assert tell.checks() == {"hang"}


def test_exceptions_in_the_log() -> None:
    log = """2026-11-30 09:35:59,303 rbdfs[1] ERROR rbdfs.fuse: open failed
Traceback (most recent call last):
  File "x.py", line 1, in f
    g()
KeyError: 'x'
2026-11-30 09:36:00,000 rbdfs[1] INFO rbdfs.server: mounted
"""
    assert [finding.detail for finding in check_log(log)] == ["KeyError"]
    assert check_log("2026-11-30 09:36:00,000 rbdfs[1] INFO mounted\n") == []
