"""Files that grow as they are written, and what this mount knows of them at once.

Whatever is opened, duplicated, closed, cut or overwritten beside a write: what was acknowledged is
what `rbd export` finds, and what stat(2) says is what `rbd info` says.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
import rbd

from tests.support.ceph import CommandError, run
from tests.support.conditions import SEEN_S, eventually
from tests.support.images import MIB, export_image, import_image, open_image, random_bytes
from tests.support.mounts import opened
from tests.support.refusals import refusal
from tests.support.servers import ask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount, Mounting

# No whole number of objects, of pages or of sectors.
SIZE = 5 * MIB + 1234
NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL


@pytest.fixture(scope="module")
def managed(module_mounting: Mounting, pool: str) -> Iterator[Mount]:
    with module_mounting(pool, "-o", "manage", lifetime_s=240.0) as mount:
        yield mount


@pytest.fixture
def new(managed: Mount, image_name: str) -> Path:
    """A file that is not there."""
    return managed.file(image_name)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A local file."""
    path = tmp_path_factory.mktemp("source") / "source"
    path.write_bytes(random_bytes(SIZE))
    return path


def size(ceph: Ceph, spec: str) -> int:
    return int(json.loads(ceph.rbd("info", "--format=json", spec))["size"])


@contextlib.contextmanager
def beside(action: Callable[[], object]) -> Iterator[None]:
    """Do something again and again, without a pause, beside the block."""
    over = threading.Event()
    failures: list[BaseException] = []

    def repeat() -> None:
        try:
            while not over.is_set():
                action()
        except BaseException as exc:
            failures.append(exc)

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert failures == []


def test_descriptors_are_closed_beside_a_write(ceph: Ceph, pool: str, new: Path) -> None:
    """Each close(2) of any descriptor is a FLUSH: it gave the image the length of before."""
    data = random_bytes(24 * MIB)
    with opened(new, NEW) as file, opened(new, os.O_WRONLY) as other:

        def close_some() -> None:
            os.close(os.dup(file))
            os.close(os.dup(other))
            subprocess.run(["true"], close_fds=False, check=True)

        with beside(close_some):
            for off in range(0, len(data), MIB):
                assert os.pwrite(file, data[off : off + MIB], off) == MIB
        assert os.fstat(file).st_size == len(data)
    assert export_image(ceph, f"{pool}/{new.name}") == data


def test_parallel_writers_of_parts(ceph: Ceph, pool: str, new: Path, source: Path) -> None:
    part = 256 * 1024
    count = SIZE // part + 1
    with opened(new, NEW):
        writers = [
            subprocess.Popen(
                ["dd", f"if={source}", f"of={new}", f"bs={part}", "count=1", "status=none"]
                + [f"skip={number}", f"seek={number}", "conv=notrunc"]
            )
            for number in reversed(range(count))
        ]
        assert [writer.wait(30) for writer in writers] == [0] * count
    assert export_image(ceph, f"{pool}/{new.name}") == source.read_bytes()


@pytest.mark.parametrize("how", ["touch NEW", ": > NEW", "rbd create"])
def test_an_empty_file_takes_a_copy(
    ceph: Ceph, pool: str, new: Path, source: Path, how: str
) -> None:
    if how == "rbd create":
        ceph.rbd("create", "--size=0", f"{pool}/{new.name}")
        eventually(new.exists, SEEN_S, "the image")
    else:
        run("sh", "-c", how.replace("NEW", str(new)))
    run("cp", str(source), str(new))
    assert new.stat().st_size == SIZE
    assert export_image(ceph, f"{pool}/{new.name}") == source.read_bytes()


def test_overwritten_at_once(ceph: Ceph, pool: str, new: Path, source: Path) -> None:
    for _ in range(3):
        run("sh", "-c", f"cp {source} {new}; echo hello > {new}")
        assert new.stat().st_size == 6
        assert export_image(ceph, f"{pool}/{new.name}") == b"hello\n"


@pytest.mark.usefixtures("native")
def test_the_size_is_known_at_once(ceph: Ceph, pool: str, new: Path, source: Path) -> None:
    script = "import os, sys; print(os.stat(sys.argv[1]).st_size)"
    seen = []
    for number in range(8):
        path = f"{new}-{number}"
        seen.append(run("sh", "-c", f"cp {source} {path}; stat -c %s {path}").strip())
    assert seen == [str(SIZE)] * 8
    run("sh", "-c", f"fallocate -l 8M {new}-9")
    assert run(sys.executable, "-c", script, f"{new}-9").strip() == str(8 * MIB)
    run("truncate", "-s", "3M", f"{new}-9")
    assert os.stat(f"{new}-9").st_size == size(ceph, f"{pool}/{new.name}-9") == 3 * MIB


def test_cut_to_nothing_by_its_descriptor(ceph: Ceph, pool: str, new: Path, source: Path) -> None:
    run("cp", str(source), str(new))
    with opened(new, os.O_WRONLY) as file:
        os.ftruncate(file, 0)
        assert os.write(file, b"new text") == 8
        assert os.fstat(file).st_size == 8
    assert export_image(ceph, f"{pool}/{new.name}") == b"new text"
    lines = [f"{number:08d}\n" for number in reversed(range(20_000))]
    with open(new, "w") as file_again:
        file_again.writelines(lines)
    run("sort", "-o", str(new), str(new))
    assert export_image(ceph, f"{pool}/{new.name}") == "".join(sorted(lines)).encode()


@pytest.mark.usefixtures("native")
def test_an_open_that_fails_leaves_nothing_open(
    ceph: Ceph, pool: str, new: Path, managed: Mount
) -> None:
    import_image(ceph, f"{pool}/{new.name}", b"content")
    eventually(new.exists, SEEN_S, "the image")
    before = ask(managed, "status")["open_files"]
    with open_image(ceph, pool, new.name) as other:
        other.lock_acquire(rbd.RBD_LOCK_MODE_EXCLUSIVE)
        assert refusal(lambda: os.open(new, os.O_RDONLY | os.O_TRUNC)) == "EBUSY"
        eventually(lambda: ask(managed, "status")["open_files"] == before, 4, "no open file")


def test_a_snapshot_of_a_file_that_was_renamed(ceph: Ceph, pool: str, new: Path) -> None:
    for number in range(4):
        old, now = f"{new}-{number}", f"{new}-{number}-now"
        with open(old, "wb") as file:
            file.write(b"content")
        with open(old, "rb") as file:
            os.rename(old, now)
            os.link(now, f"{now}@s")
            assert file.read() == b"content"
        assert export_image(ceph, f"{pool}/{new.name}-{number}-now@s") == b"content"


def test_a_snapshot_of_a_file_that_grows(ceph: Ceph, pool: str, new: Path) -> None:
    data = random_bytes(MIB + 17)
    with opened(new, NEW) as file:
        os.pwrite(file, data, 0)
        os.link(new, f"{new}@s")
        assert os.stat(f"{new}@s").st_size == len(data)
        os.pwrite(file, data, len(data))
    assert export_image(ceph, f"{pool}/{new.name}@s") == data
    assert export_image(ceph, f"{pool}/{new.name}") == data + data


def test_a_file_is_removed_that_is_open_here_alone(ceph: Ceph, pool: str, new: Path) -> None:
    with opened(new, NEW) as file:
        os.pwrite(file, b"before", 0)
        os.unlink(new)
        assert not new.exists()
        assert os.pwrite(file, b"after", MIB) == 5
        assert os.pread(file, 6, 0) == b"before"
        assert os.fstat(file).st_size == MIB + 5
    trash = json.loads(ceph.rbd("trash", "ls", "--format=json", pool))
    (image_id,) = [entry["id"] for entry in trash if entry["name"] == new.name]
    ceph.rbd("trash", "restore", "-p", pool, image_id)
    assert export_image(ceph, f"{pool}/{new.name}") == b"before".ljust(MIB, b"\0") + b"after"


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("length", [511, 4 * MIB + 1, 5 * MIB + 512])
def test_shred(ceph: Ceph, pool: str, new: Path, length: int) -> None:
    import_image(ceph, f"{pool}/{new.name}", bytes(length))
    eventually(new.exists, SEEN_S, "the image")
    # It rounds the size up to whole blocks, for whose rest there is no room.
    with pytest.raises(CommandError, match=f"offset {length}: No space left on device") as refused:
        run("shred", "-n1", str(new))
    assert "Input/output error" not in str(refused.value)
    assert bytes(512) not in export_image(ceph, f"{pool}/{new.name}")
    assert size(ceph, f"{pool}/{new.name}") == length


@pytest.mark.parametrize("flags", ["buffered", "O_DIRECT", "O_SYNC", "O_DSYNC"])
def test_a_write_across_the_end_is_short(ceph: Ceph, pool: str, new: Path, flags: str) -> None:
    import_image(ceph, f"{pool}/{new.name}", bytes(MIB + 512))
    eventually(new.exists, SEEN_S, "the image")
    with opened(new, os.O_RDWR | getattr(os, flags, 0)) as file:
        page = mmap.mmap(-1, 8192)
        page[:] = b"x" * 8192
        assert os.pwritev(file, [page], MIB) == 512
        assert refusal(lambda: os.pwritev(file, [page], MIB + 512)) == "ENOSPC"
    assert export_image(ceph, f"{pool}/{new.name}")[MIB:] == b"x" * 512


def test_qcow2(ceph: Ceph, pool: str, new: Path, source: Path, tmp_path: Path) -> None:
    run("qemu-img", "create", "-q", "-f", "qcow2", str(new), "64M")
    run("qemu-img", "check", "-q", str(new))
    run("qemu-img", "convert", "-O", "qcow2", "-f", "raw", str(source), f"{new}-2")
    run("qemu-img", "convert", "-O", "raw", f"{new}-2", str(tmp_path / "raw"))
    assert (tmp_path / "raw").read_bytes()[:SIZE] == source.read_bytes()


@pytest.mark.usefixtures("native")
def test_a_write_that_asks_for_its_own_flush(
    ceph: Ceph, pool: str, image_name: str, mounting: Mounting
) -> None:
    """RWF_DSYNC is a flag of the request alone, which libfuse keeps to itself."""
    page = mmap.mmap(-1, 4096)
    page[:] = b"y" * 4096
    with mounting(pool, "-o", "manage,cache=writeback") as mount:
        flags = NEW | os.O_DIRECT
        with opened(mount.file(image_name), flags) as file:
            os.pwritev(file, [page], 0)
            # librbd writes through until it sees the first flush.
            os.fsync(file)
            os.pwritev(file, [page], 4096, os.RWF_DSYNC)
            with open_image(ceph, pool, image_name, read_only=True) as image:
                assert image.read(0, 8192) == b"y" * 8192


def test_times_move_with_the_content(ceph: Ceph, pool: str, new: Path, source: Path) -> None:
    run("cp", str(source), str(new))
    stamps = []
    with opened(new, os.O_RDWR) as file:
        for number in range(4):
            os.pwrite(file, b"x", number)
            found = os.fstat(file)
            stamps.append((found.st_mtime_ns, found.st_ctime_ns))
    assert stamps == sorted(set(stamps))
    assert all(ctime >= mtime for mtime, ctime in stamps)
