"""`-o partitions`: partitions as files, for tools that want a file system and no disk."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import rbd

from tests.support.ceph import run
from tests.support.conditions import eventually
from tests.support.images import MIB, export_image, import_image
from tests.support.loops import loop_device
from tests.support.mounts import opened, opened_and_lost
from tests.support.refusals import refusal
from tests.support.servers import kill_server, wait_for_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount, Mounting

SIZE = 32 * MIB
# What is kept of a partition table is kept for five seconds.
SEEN_S = 8.0
LOST_PLACE = r"WARNING .*open: .*-part1 is not at 1048576~8388608 any more"
# Numbers, and (offset, length) in MiB.
TABLES = {
    "gpt": (
        "label: gpt\n1: start=1MiB,size=8MiB\n2: start=9MiB,size=4MiB\n",
        {1: (1, 8), 2: (9, 4)},
    ),
    "mbr": (
        "label: dos\n1: start=1MiB,size=8MiB\n3: start=9MiB,size=4MiB\n",
        {1: (1, 8), 3: (9, 4)},
    ),
    "logical": (
        "label: dos\n1: start=1MiB,size=8MiB\n2: start=9MiB,size=16MiB,type=5\n"
        "5: start=10MiB,size=4MiB\n6: start=15MiB,size=2MiB\n",
        {1: (1, 8), 5: (10, 4), 6: (15, 2)},
    ),
}


@pytest.fixture
def mount_options() -> tuple[str, ...]:
    return ("partitions",)


@pytest.fixture
def make(ceph: Ceph, pool: str, tmp_path: Path) -> Any:
    """Makes an image with a partition table of sfdisk's, and each partition's number in it."""

    def make(name: str, table: str, *, sector: int = 512) -> dict[int, tuple[int, int]]:
        script, partitions = TABLES[table]
        disk = tmp_path / "disk"
        with disk.open("wb") as file:
            file.truncate(SIZE)
        if sector == 512:
            run("sfdisk", "-q", str(disk), stdin=script.encode())
        else:
            with loop_device(disk, "--sector-size", str(sector)) as device:
                run("sfdisk", "-q", device, stdin=script.encode())
        with disk.open("r+b") as file:
            for number, (start, _) in partitions.items():
                file.seek(start * MIB)
                file.write(b"partition %d" % number)
        import_image(ceph, f"{pool}/{name}", disk.read_bytes())
        return partitions

    return make


def unlocked_disk(ioctx: Any, mount: Mount, name: str) -> tuple[Path, Path]:
    """An image without an exclusive lock that has partitions: its file, and that of the first."""
    rbd.RBD().create(ioctx, name, SIZE, old_format=False, features=1)
    whole, part = mount.file(name), mount.file(f"{name}-part1")
    eventually(whole.exists, SEEN_S, "the image")
    run("sfdisk", "-q", str(whole), stdin=TABLES["gpt"][0].encode())
    eventually(part.exists, SEEN_S, "the partition")
    return whole, part


def code(path: Path, flags: int) -> str:
    try:
        os.close(os.open(path, flags))
    except OSError as exc:
        return errno.errorcode[exc.errno or 0]
    return "opened"


@pytest.mark.parametrize(
    ("table", "sector"), [("gpt", 512), ("gpt", 4096), ("mbr", 512), ("logical", 512)]
)
def test_partitions_are_files(
    ceph: Ceph, pool: str, image_name: str, mount: Mount, make: Any, table: str, sector: int
) -> None:
    partitions = make(image_name, table, sector=sector)
    ceph.rbd("snap", "create", "--no-progress", f"{pool}/{image_name}@s")
    wholes = (image_name, f"{image_name}@s")
    expected = {f"{whole}-part{number}" for whole in wholes for number in partitions}

    def names() -> set[str]:
        return {name for name in os.listdir(mount.path) if name.startswith(image_name)}

    eventually(lambda: names() == expected | set(wholes), SEEN_S, "partitions")
    for whole in wholes:
        for number, (_, length) in partitions.items():
            path = mount.file(f"{whole}-part{number}")
            assert path.stat().st_size == length * MIB
            content = path.read_bytes()
            assert len(content) == length * MIB
            assert content.rstrip(b"\0") == b"partition %d" % number
    inodes = {mount.file(name).stat().st_ino for name in names()}
    assert len(inodes) == len(names())
    for missing in ("-part4", "-part0", "-part01", "-part999", "-part", "-part1-part1"):
        assert not mount.file(image_name + missing).exists()


def test_mbr_of_large_sectors(
    ceph: Ceph, pool: str, image_name: str, mounting: Mounting, make: Any
) -> None:
    partitions = make(image_name, "mbr", sector=4096)
    with mounting(pool, "-o", "sector_size=4096") as mount:
        for number, (_, length) in partitions.items():
            path = mount.file(f"{image_name}-part{number}")
            assert path.stat().st_size == length * MIB
            assert path.read_bytes().rstrip(b"\0") == b"partition %d" % number


def test_only_on_request(ceph: Ceph, pool: str, image_name: str, make: Any, mounting: Any) -> None:
    make(image_name, "gpt")
    with type(mounting)(mounting.ceph, mounting.directory)(pool) as mount:
        assert mount.file(image_name).exists()
        assert not mount.file(f"{image_name}-part1").exists()


def test_what_has_the_name_of_a_partition(
    ceph: Ceph, pool: str, image_name: str, mount: Mount, make: Any
) -> None:
    """It has it, whatever it is, and each name is listed once."""
    make(image_name, "gpt")
    for snap in ("s", "s-part1"):
        ceph.rbd("snap", "create", "--no-progress", f"{pool}/{image_name}@{snap}")
    import_image(ceph, f"{pool}/{image_name}-part1", b"an image")
    ceph.rbd("namespace", "create", f"{pool}/{image_name}-part2")
    ends = [
        "",
        "-part1",
        "-part2",
        "@s",
        "@s-part1",
        "@s-part1-part1",
        "@s-part1-part2",
        "@s-part2",
    ]

    def names() -> list[str]:
        return sorted(name for name in os.listdir(mount.path) if name.startswith(image_name))

    eventually(lambda: names() == [image_name + end for end in ends], SEEN_S, "each name once")
    with os.scandir(mount.path) as entries:
        inodes = {entry.name: entry.inode() for entry in entries if entry.name in names()}
    for name, inode in inodes.items():
        assert mount.file(name).stat().st_ino == inode
    assert mount.file(f"{image_name}-part1").read_bytes() == b"an image"
    assert mount.file(f"{image_name}-part2").is_dir()
    assert mount.file(f"{image_name}@s-part1").stat().st_size == SIZE
    assert mount.file(f"{image_name}@s-part2").stat().st_size == 4 * MIB


def test_file_system_tools(
    ceph: Ceph, pool: str, image_name: str, mount: Mount, make: Any, tmp_path: Path
) -> None:
    make(image_name, "gpt")
    eventually(mount.file(f"{image_name}-part1").exists, SEEN_S, "partitions")
    path, snap = (mount.file(f"{image_name}{end}") for end in ("-part1", "@s-part1"))
    run("mke2fs", "-q", "-t", "ext4", "-b", "1024", str(path))
    (tmp_path / "letter").write_text("dear reader\n")
    run("debugfs", "-w", "-R", f"write {tmp_path}/letter letter", str(path))
    assert run("debugfs", "-R", "cat letter", str(path)) == "dear reader\n"
    with loop_mount(path, tmp_path / "mnt") as directory:
        assert (directory / "letter").read_text() == "dear reader\n"
        (directory / "reply").write_text("dear writer\n")
    run("e2fsck", "-f", "-n", str(path))
    ceph.rbd("snap", "create", "--no-progress", f"{pool}/{image_name}@s")
    eventually(snap.exists, SEEN_S, "the snapshot's partition")
    assert run("debugfs", "-R", "cat reply", str(snap)) == "dear writer\n"
    run("e2fsck", "-f", "-n", str(snap))
    with loop_mount(snap, tmp_path / "mnt2", "ro") as directory:
        assert (directory / "reply").read_text() == "dear writer\n"
    # The other partition was not touched, and the table neither.
    assert export_image(ceph, f"{pool}/{image_name}")[9 * MIB :].startswith(b"partition 2\0")


@contextlib.contextmanager
def loop_mount(path: Path, mountpoint: Path, options: str = "rw") -> Iterator[Path]:
    mountpoint.mkdir()
    run("mount", "-t", "ext4", "-o", f"loop,{options}", str(path), str(mountpoint))
    try:
        yield mountpoint
    finally:
        run("umount", str(mountpoint))


def test_writes_end_where_the_partition_ends(
    ceph: Ceph, pool: str, image_name: str, mount: Mount, make: Any
) -> None:
    make(image_name, "gpt")
    eventually(mount.file(f"{image_name}-part1").exists, SEEN_S, "partitions")
    end = 8 * MIB
    with opened(mount.file(f"{image_name}-part1"), os.O_RDWR) as file:
        assert os.pwrite(file, b"x" * 8192, end - 4096) == 4096
        with pytest.raises(OSError, match="No space left"):
            os.pwrite(file, b"x", end)
        assert os.pread(file, 8192, end - 4096) == b"x" * 4096
        for size in (end + 512, end - 512, 0):
            with pytest.raises(PermissionError):
                os.ftruncate(file, size)
        subprocess.run(
            ["fallocate", "-p", "-o", str(end - 512), "-l", "4096", f"/proc/self/fd/{file}"],
            pass_fds=[file],
            check=True,
        )
        os.fsync(file)
    data = export_image(ceph, f"{pool}/{image_name}")
    assert data[9 * MIB - 4096 : 9 * MIB] == b"x" * 3584 + bytes(512)
    assert data[9 * MIB :].startswith(b"partition 2\0")
    assert code(mount.file(f"{image_name}-part1"), os.O_WRONLY | os.O_TRUNC) == "EPERM"


def test_whole_and_partition_are_not_written_at_once(
    ceph: Ceph, pool: str, image_name: str, mount: Mount, make: Any
) -> None:
    make(image_name, "gpt")
    ceph.rbd("snap", "create", "--no-progress", f"{pool}/{image_name}@s")
    eventually(mount.file(f"{image_name}@s-part2").exists, SEEN_S, "partitions")
    whole, one, two = (mount.file(f"{image_name}{end}") for end in ("", "-part1", "-part2"))
    with opened(whole, os.O_RDWR):
        assert [code(path, os.O_RDWR) for path in (one, two)] == ["EBUSY", "EBUSY"]
        assert one.read_bytes()[:11] == b"partition 1"
    with opened(one, os.O_RDWR) as first, opened(two, os.O_RDWR) as second:
        assert code(whole, os.O_RDWR) == "EBUSY"
        with pytest.raises(OSError, match="busy"):
            os.truncate(whole, 2 * SIZE)
        with opened(whole, os.O_RDONLY) as reader:
            # What is written to a partition is in the whole at once, read before or not.
            assert os.pread(reader, 11, MIB) == b"partition 1"
            assert os.pwrite(first, b"changed one", 0) == 11
            assert os.pread(reader, 11, MIB) == b"changed one"
            os.pwrite(second, b"changed two", 0)
            assert os.pread(reader, 11, 9 * MIB) == b"changed two"
    eventually(lambda: code(whole, os.O_RDWR) == "opened", 5.0, "the partitions' end")
    for flags in (os.O_RDWR, os.O_WRONLY, os.O_RDONLY | os.O_TRUNC):
        assert code(mount.file(f"{image_name}@s-part1"), flags) == "EROFS"
    assert mount.file(f"{image_name}@s-part1").read_bytes()[:11] == b"partition 1"


def test_table_that_lies(ceph: Ceph, pool: str, ioctx: Any, image_name: str, mount: Mount) -> None:
    """It shows nothing, and breaks nothing."""

    def mbr(*entries: tuple[int, int, int]) -> bytes:
        table = b"".join(
            b"\0\0\0\0"
            + bytes([kind])
            + b"\0\0\0"
            + first.to_bytes(4, "little")
            + count.to_bytes(4, "little")
            for kind, first, count in entries
        )
        return bytes(446) + table.ljust(64, b"\0") + b"\x55\xaa"

    lies = {
        "overlap": mbr((0x83, 2048, 4096), (0x83, 4096, 4096)),
        "outside": mbr((0x83, 2048, SIZE)),
        "loop": mbr((0x05, 1, 1000)) + mbr((0x83, 1, 1), (0x05, 0, 1000)),
        "gpt": mbr((0xEE, 1, 2**32 - 1)) + b"EFI PART\0\0\1\0" + b"\xff" * 500,
        "noise": os.urandom(4096),
    }
    for lie, data in lies.items():
        rbd.RBD().create(ioctx, f"{image_name}-{lie}", SIZE)
        with rbd.Image(ioctx, f"{image_name}-{lie}") as image:
            image.write(data, 0)
    eventually(mount.file(f"{image_name}-noise").exists, SEEN_S, "the images")

    def names() -> set[str]:
        return {name for name in os.listdir(mount.path) if name.startswith(image_name)}

    eventually(lambda: names() == {f"{image_name}-{lie}" for lie in lies}, SEEN_S, "the images")
    for lie, data in lies.items():
        assert not mount.file(f"{image_name}-{lie}-part1").exists()
        assert mount.file(f"{image_name}-{lie}").read_bytes()[: len(data)] == data


def test_table_that_is_written_through_the_mount(
    ceph: Ceph, pool: str, ioctx: Any, image_name: str, mount: Mount
) -> None:
    rbd.RBD().create(ioctx, image_name, SIZE)
    path, part = mount.file(image_name), mount.file(f"{image_name}-part1")
    eventually(path.exists, SEEN_S, "the image")
    assert not part.exists()
    run("sfdisk", "-q", str(path), stdin=TABLES["gpt"][0].encode())
    eventually(part.exists, SEEN_S, "the partition")
    assert part.stat().st_size == 8 * MIB
    assert ceph.watchers(f"{pool}/{image_name}") == []
    # Another client moves it: an open file stays inside what it was opened as, or says so.
    run("sfdisk", "-q", str(path), stdin=b"label: gpt\n1: start=2MiB,size=3MiB\n")
    eventually(lambda: part.stat().st_size == 3 * MIB, SEEN_S, "the new table")


@pytest.fixture
def moved_table(tmp_path: Path) -> list[tuple[int, bytes]]:
    """A table with the first partition at 2 MiB, of 3 MiB: offsets, and what belongs there."""
    disk = tmp_path / "moved"
    with disk.open("wb") as file:
        file.truncate(SIZE)
    script = b"label: gpt\n1: start=2MiB,size=3MiB\n2: start=9MiB,size=4MiB\n"
    run("sfdisk", "-q", str(disk), stdin=script)
    data = disk.read_bytes()
    return [(0, data[:MIB]), (SIZE - MIB, data[-MIB:])]


def opened_at_last(path: Path, flags: int) -> int:
    """A file that nobody uses any more, when the kernel's RELEASE has come."""
    found: list[int] = []

    def try_it() -> bool:
        try:
            found.append(os.open(path, flags))
        except OSError as exc:
            if exc.errno != errno.EBUSY:
                raise
        return bool(found)

    eventually(try_it, what="the last user's end")
    return found[0]


@pytest.mark.parametrize(
    ("here", "mount_options"),
    [
        (True, ("partitions",)),
        (False, ("partitions",)),
        # What librbd has read through the cache of an image that it may only read, it keeps.
        (False, ("partitions", "cache=writethrough")),
    ],
    ids=["here", "elsewhere", "elsewhere-cached"],
)
def test_one_that_has_moved_is_opened_where_it_is(
    ceph: Ceph,
    pool: str,
    ioctx: Any,
    image_name: str,
    mount: Mount,
    make: Any,
    moved_table: list[tuple[int, bytes]],
    here: bool,
) -> None:
    """And not where the table had it that was read last."""
    make(image_name, "gpt")
    whole, part = mount.file(image_name), mount.file(f"{image_name}-part1")
    eventually(part.exists, SEEN_S, "partitions")
    assert part.stat().st_size == 8 * MIB
    # open(2) itself asks for it by its name again.
    mount.expect_log(LOST_PLACE)
    with opened(part, os.O_RDONLY) as before:
        assert os.pread(before, 11, 0) == b"partition 1"
        if here:
            with opened(whole, os.O_RDWR) as file:
                for off, data in moved_table:
                    assert os.pwrite(file, data, off) == len(data)
        else:
            with rbd.Image(ioctx, image_name) as image:
                for off, data in moved_table:
                    image.write(data, off)
        # Who has it open goes on where it was.
        assert os.pread(before, 11, 0) == b"partition 1"
        with opened(part, os.O_RDONLY) as reader:
            assert os.pread(reader, 11, 0) == bytes(11)
        file = opened_at_last(part, os.O_RDWR)
        assert os.pwrite(file, b"marker", 0) == 6
        assert os.fstat(file).st_size == 3 * MIB
        os.close(file)
    data = export_image(ceph, f"{pool}/{image_name}")
    assert data[MIB:].startswith(b"partition 1")
    assert data[2 * MIB :].startswith(b"marker")


@pytest.mark.parametrize("mount_options", [("partitions", "cache=writethrough")])
def test_one_that_has_moved_beside_a_writer_with_a_cache(
    ioctx: Any, image_name: str, mount: Mount, moved_table: list[tuple[int, bytes]]
) -> None:
    """Without the exclusive lock its cache may be wrong, or ahead: nothing is opened by guess."""
    whole, part = unlocked_disk(ioctx, mount, image_name)
    mount.expect_log(r"WARNING .*open: .*-part1 is not at .* any more")
    writer = opened_at_last(mount.file(f"{image_name}-part2"), os.O_RDWR)
    with contextlib.closing(os.fdopen(writer, "r+b", buffering=0)):
        with rbd.Image(ioctx, image_name) as image:
            for off, data in moved_table:
                image.write(data, off)
        assert code(part, os.O_RDWR) == "ESTALE"
    eventually(lambda: code(part, os.O_RDWR) == "opened", what="the writer's end")
    with opened(part, os.O_RDWR) as file:
        assert os.pwrite(file, b"marker", 0) == 6
    with rbd.Image(ioctx, image_name) as image:
        assert image.read(MIB, 6) == bytes(6)
        assert image.read(2 * MIB, 6) == b"marker"


def test_one_that_is_gone_is_not_opened(
    ioctx: Any, image_name: str, mount: Mount, make: Any
) -> None:
    make(image_name, "gpt")
    part = mount.file(f"{image_name}-part1")
    eventually(part.exists, SEEN_S, "partitions")
    mount.expect_log(LOST_PLACE)
    with rbd.Image(ioctx, image_name) as image:
        image.write(bytes(MIB), 0)
        image.write(bytes(MIB), SIZE - MIB)
    for flags in (os.O_RDONLY, os.O_RDWR):
        assert code(part, flags) == "ENOENT"


@pytest.mark.usefixtures("native")
def test_one_that_has_moved_when_its_server_died(
    ceph: Ceph,
    pool: str,
    ioctx: Any,
    image_name: str,
    mount: Mount,
    moved_table: list[tuple[int, bytes]],
) -> None:
    """Without the exclusive lock nobody is kept out: who writes to it is told so, and he alone."""
    whole, part = unlocked_disk(ioctx, mount, image_name)
    file = opened_at_last(part, os.O_RDWR)
    with (
        opened(mount.file(f"{image_name}-part2"), os.O_RDWR) as stays,
        opened(whole, os.O_RDONLY) as backup,
    ):
        with rbd.Image(ioctx, image_name) as image:
            for off, data in moved_table:
                image.write(data, off)
        mount.expect_log(r"was killed \(signal 9\)", r"are lost: .*-part1 is not at")
        mount.allow_log(r"116")
        kill_server(mount)
        wait_for_server(mount, 2)
        assert refusal(lambda: os.pwrite(file, b"marker", 0)) == "ESTALE"
        with contextlib.suppress(OSError):
            os.close(file)
        assert os.pwrite(stays, b"marker", 0) == 6
        os.fsync(stays)
        assert os.pread(backup, 6, 9 * MIB) == b"marker"
    assert export_image(ceph, f"{pool}/{image_name}")[MIB : MIB + 6] == bytes(6)


def test_pages_of_a_removed_snapshot(
    ceph: Ceph, pool: str, image_name: str, mount: Mount, make: Any, ioctx: Any
) -> None:
    """A partition has pages of its own: what was read of zeros after the removal is not kept."""
    make(image_name, "mbr")
    with rbd.Image(ioctx, image_name) as other:
        other.create_snap("s")
        path = mount.file(f"{image_name}@s-part1")
        eventually(path.exists, SEEN_S, "the snapshot's partition")
        with opened_and_lost(path, os.O_RDONLY) as file:
            other.remove_snap("s")
            with contextlib.suppress(OSError):
                os.pread(file, 4096, 4 * MIB)
            eventually(
                lambda: refusal(lambda: os.pread(file, 4096, 4 * MIB)) == "ESTALE",
                SEEN_S,
                "ESTALE, and no zeros that were kept",
            )
            mount.expect_log(r"was removed")
