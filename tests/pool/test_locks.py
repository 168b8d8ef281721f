"""Writers of two clients: one at a time by default, in turns with `-o lock=auto`."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import rbd

from tests.support.ceph import CommandError
from tests.support.conditions import SEEN_S, eventually
from tests.support.images import MIB, export_image, import_image, open_image, random_bytes
from tests.support.mounts import opened

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount, Mounting

DATA = random_bytes(4 * MIB)
ENDS_S = 5.0
WRITING = (os.O_WRONLY, os.O_RDWR, os.O_RDWR | os.O_DIRECT)


@pytest.fixture
def image(ceph: Ceph, pool: str, image_name: str) -> str:
    import_image(ceph, f"{pool}/{image_name}", DATA)
    return image_name


@contextlib.contextmanager
def bench(ceph: Ceph, spec: str) -> Iterator[subprocess.Popen[bytes]]:
    """`rbd bench` at work on an image."""
    command = ["rbd", "-c", str(ceph.conf), "bench", "--io-type", "write", "--io-total", "100G"]
    with subprocess.Popen(
        [*command, "--io-threads", "1", spec], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            eventually(lambda: ceph.lock_owners(spec), ENDS_S, "the bench's lock")
            yield process
        finally:
            process.terminate()
            process.communicate()


def code_of_open(path: Path, flags: int) -> str:
    try:
        os.close(os.open(path, flags))
    except OSError as exc:
        return errno.errorcode[exc.errno or 0]
    return "opened"


def opens(path: Path, flags: int = os.O_RDWR) -> bool:
    answer = code_of_open(path, flags)
    assert answer in ("EBUSY", "opened")
    return answer == "opened"


def free(ceph: Ceph, spec: str) -> bool:
    return not ceph.watchers(spec) and not ceph.lock_owners(spec)


def assert_taken(path: Path) -> None:
    """Nobody can write, and everybody can read."""
    for flags in WRITING:
        assert code_of_open(path, flags) == "EBUSY"
    with pytest.raises(OSError, match="busy"):
        os.truncate(path, 5 * MIB)
    assert path.read_bytes()[MIB:] == DATA[MIB:]


def test_client_that_holds_the_lock(ceph: Ceph, pool: str, image: str, mount: Mount) -> None:
    path = mount.file(image)
    with open_image(ceph, pool, image) as other:
        other.lock_acquire(rbd.RBD_LOCK_MODE_EXCLUSIVE)
        owners = ceph.lock_owners(f"{pool}/{image}")
        assert_taken(path)
        assert path.stat().st_size == len(DATA)
        # It has not been disturbed.
        assert other.is_exclusive_lock_owner()
        assert ceph.lock_owners(f"{pool}/{image}") == owners
        other.write(b"other", 0)
        assert path.read_bytes()[:5] == b"other"
    eventually(lambda: opens(path), ENDS_S, "the way to be free")
    eventually(lambda: free(ceph, f"{pool}/{image}"), ENDS_S, "the lock's end")


def test_client_that_watches_only(ceph: Ceph, pool: str, image: str, mount: Mount) -> None:
    with open_image(ceph, pool, image) as other:
        assert ceph.lock_owners(f"{pool}/{image}") == []
        assert_taken(mount.file(image))
        other.write(b"other", 0)
    eventually(lambda: opens(mount.file(image)), ENDS_S, "the way to be free")


def test_bench_at_work(ceph: Ceph, pool: str, image: str, mount: Mount) -> None:
    with bench(ceph, f"{pool}/{image}") as process:
        for flags in WRITING:
            assert code_of_open(mount.file(image), flags) == "EBUSY"
        assert len(mount.file(image).read_bytes()) == len(DATA)
        assert process.poll() is None
    assert mount.alive


def test_second_mount(ceph: Ceph, pool: str, image: str, mounting: Mounting) -> None:
    with mounting(pool) as first, mounting(pool) as second:
        with opened(first.file(image), os.O_RDWR) as file:
            assert_taken(second.file(image))
            assert os.pwrite(file, b"first", 0) == 5
            os.fsync(file)
            assert second.file(image).read_bytes()[:5] == b"first"
        eventually(lambda: opens(second.file(image)), ENDS_S, "the way to be free")
        with opened(second.file(image), os.O_RDWR) as file:
            assert code_of_open(first.file(image), os.O_RDWR) == "EBUSY"
            assert os.pwrite(file, b"second", 0) == 6
    assert free(ceph, f"{pool}/{image}")
    assert export_image(ceph, f"{pool}/{image}")[:6] == b"second"


def test_held_until_the_last_writer_closes(ceph: Ceph, pool: str, image: str, mount: Mount) -> None:
    spec, path = f"{pool}/{image}", mount.file(image)
    with opened(path, os.O_RDONLY) as reader:
        assert free(ceph, spec)
        with opened(path, os.O_RDWR):
            with opened(path, os.O_WRONLY) as second:
                os.pwrite(second, b"x", 0)
            assert (len(ceph.watchers(spec)), len(ceph.lock_owners(spec))) == (1, 1)
            # Exclusive: librbd does not hand the lock over, and refuses the other's writes.
            with (
                open_image(ceph, pool, image) as other,
                pytest.raises(rbd.ReadOnlyImage),
            ):
                other.write(b"other", 0)
        eventually(lambda: free(ceph, spec), ENDS_S, "the lock's end")
        assert os.pread(reader, 1, 0) == b"x"
        with open_image(ceph, pool, image) as other:
            other.write(b"other", 0)
        assert os.pread(reader, 5, 0) == b"other"
    # A file that was open for reading has not become one for writing, either.
    assert export_image(ceph, spec)[:5] == b"other"


def test_automatic_transitions(ceph: Ceph, pool: str, image: str, mounting: Mounting) -> None:
    auto = ("-o", "lock=auto")
    with (
        mounting(pool, *auto) as first,
        mounting(pool, *auto) as second,
        opened(first.file(image), os.O_RDWR) as one,
        opened(second.file(image), os.O_RDWR) as two,
    ):
        for turn in range(5):
            for file, other in ((one, two), (two, one)):
                text = b"turn %d" % turn
                assert os.pwrite(file, text, turn * 4096) == len(text)
                os.fsync(file)
                assert os.pread(other, len(text), turn * 4096) == text
    assert free(ceph, f"{pool}/{image}")


def test_automatic_transitions_with_another_kind_of_client(
    ceph: Ceph, pool: str, image: str, mounting: Mounting
) -> None:
    with (
        mounting(pool, "-o", "lock=auto") as mount,
        opened(mount.file(image), os.O_RDWR) as file,
        open_image(ceph, pool, image) as other,
    ):
        for turn in range(3):
            assert os.pwrite(file, b"mount", turn) == 5
            os.fsync(file)
            other.write(b"other", turn)
            assert os.pread(file, 5, turn) == b"other"


def test_image_without_the_feature(ceph: Ceph, pool: str, ioctx: Any, mounting: Mounting) -> None:
    name = "layering-only"
    rbd.RBD().create(ioctx, name, MIB, features=rbd.RBD_FEATURE_LAYERING)
    spec = f"{pool}/{name}"
    with mounting(pool) as first, mounting(pool) as second:
        with rbd.Image(ioctx, name) as other:
            other.write(b"other", 0)
            assert code_of_open(first.file(name), os.O_RDWR) == "EBUSY"
            assert first.file(name).read_bytes()[:5] == b"other"
        eventually(lambda: opens(first.file(name)), ENDS_S, "the way to be free")
        eventually(lambda: free(ceph, spec), ENDS_S, "the watch's end")
        with opened(first.file(name), os.O_RDWR) as file:
            assert ceph.lock_owners(spec) == []
            assert code_of_open(second.file(name), os.O_RDWR) == "EBUSY"
            assert os.pwrite(file, b"first", 0) == 5
            # Another writer cannot be kept out: what it writes is seen nevertheless.
            with rbd.Image(ioctx, name) as other:
                other.write(b"again", 0)
            assert os.pread(file, 5, 0) == b"again"
        eventually(lambda: opens(second.file(name)), ENDS_S, "the way to be free")
    assert free(ceph, spec)


@pytest.mark.parametrize(
    ("lock", "features", "mode"),
    [
        ("exclusive", "layering,exclusive-lock", "snapshot"),
        ("auto", "layering", "snapshot"),
        ("exclusive", "layering,exclusive-lock,journaling", "journal"),
    ],
)
def test_image_that_is_not_the_primary_of_a_mirror(
    ceph: Ceph, pool: str, image_name: str, mounting: Mounting, lock: str, features: str, mode: str
) -> None:
    image = image_name
    ceph.rbd(
        *("import", "--no-progress", "--image-feature", features, "-", f"{pool}/{image}"),
        input=DATA,
    )
    ceph.rbd("mirror", "pool", "enable", pool, "image")
    ceph.rbd("mirror", "image", "enable", f"{pool}/{image}", mode)
    with mounting(pool, "-o", f"lock={lock}") as mount:
        path = mount.file(image)
        assert code_of_open(path, os.O_RDWR) == "opened"
        eventually(lambda: free(ceph, f"{pool}/{image}"), ENDS_S, "the lock's end")
        ceph.rbd("mirror", "image", "demote", f"{pool}/{image}")
        for flags in WRITING:
            assert code_of_open(path, flags) == "EROFS"
        with pytest.raises(OSError, match="Read-only file system"):
            os.truncate(path, 5 * MIB)
        assert path.read_bytes() == DATA
        assert free(ceph, f"{pool}/{image}")
        ceph.rbd("mirror", "image", "promote", f"{pool}/{image}")
        eventually(lambda: code_of_open(path, os.O_RDWR) == "opened", 3.0, "the promotion")
    ceph.rbd("mirror", "image", "disable", f"{pool}/{image}")


def test_read_only_client(ceph: Ceph, pool: str, image: str, mounting: Mounting) -> None:
    ceph.rbd("snap", "create", "--no-progress", f"{pool}/{image}@s")
    ceph.rbd("namespace", "create", f"{pool}/tenant")
    import_image(ceph, f"{pool}/tenant/inside", b"inside")
    with mounting(pool, "--id", "ro", "-o", "snapshots=all") as mount:
        assert {image, f"{image}@s", "tenant"} <= set(os.listdir(mount.path))
        for name, data in ((image, DATA), (f"{image}@s", DATA), ("tenant/inside", b"inside")):
            assert mount.file(name).read_bytes() == data
            for flags in WRITING:
                assert code_of_open(mount.file(name), flags) == "EROFS"
            with pytest.raises(OSError, match="Read-only file system"):
                os.truncate(mount.file(name), 5 * MIB)
        with open_image(ceph, pool, image) as other:
            other.write(b"other", 0)
            assert mount.file(image).read_bytes()[:5] == b"other"


@pytest.mark.parametrize("lock", ["exclusive", "auto"])
def test_advisory_lock(ceph: Ceph, pool: str, image: str, mounting: Mounting, lock: str) -> None:
    """One of `rbd lock add`: librbd would ask for the exclusive lock without an end."""
    spec = f"{pool}/{image}"
    ceph.rbd("lock", "add", spec, "mylock", "--shared", "tag")
    with mounting(pool, "-o", f"lock={lock}") as mount:
        path = mount.file(image)
        for flags in WRITING:
            assert code_of_open(path, flags) == "EBUSY"
        holder = re.compile(r"client\.\d+ at \S+ holds lock 'mylock'")
        eventually(lambda: holder.search(mount.log_text), what="its holder in the log")
        assert path.read_bytes() == DATA
        ceph.rbd("lock", "rm", spec, "mylock", ceph.lock_ids(spec)[0])
        with opened(path, os.O_RDWR) as file:
            assert os.pwrite(file, b"first", 0) == 5
            if lock == "exclusive":
                # librbd keeps the names of its locks; another kind of lock is not to be had.
                with pytest.raises(CommandError):
                    ceph.rbd("lock", "add", spec, "mylock", "--shared", "tag")
            assert os.pwrite(file, b"again", 0) == 5
            os.fsync(file)
    assert export_image(ceph, spec)[:5] == b"again"


def test_feature_that_is_disabled_while_the_file_is_open(
    ceph: Ceph, pool: str, image: str, mount: Mount
) -> None:
    """Nobody is kept from writing then, so that pages are not kept either."""
    with opened(mount.file(image), os.O_RDWR) as file:
        assert os.pread(file, MIB, 0) == DATA[:MIB]
        features = ("fast-diff", "object-map", "exclusive-lock")
        ceph.rbd("feature", "disable", f"{pool}/{image}", *features)
        for text in (b"elsewhere", b"and again"):
            with open_image(ceph, pool, image) as other:
                other.write(text, 0)
            eventually(lambda text=text: os.pread(file, 9, 0) == text, SEEN_S, "what others wrote")  # type: ignore[misc]
        mount.expect_log(r"WARNING .*exclusive-lock feature is off")
        assert os.pwrite(file, b"here", 0) == 4
        os.fsync(file)


def test_group_snapshot(ceph: Ceph, pool: str, image: str, mounting: Mounting) -> None:
    """librbd's group code asks for each lock itself (30 is EROFS): `lock=auto` gives it away."""
    group = f"{pool}/group-{image}"
    ceph.rbd("group", "create", group)
    ceph.rbd("group", "image", "add", group, f"{pool}/{image}")
    for lock in ("exclusive", "auto"):
        with (
            mounting(pool, "-o", f"lock={lock}") as mount,
            opened(mount.file(image), os.O_RDWR | os.O_SYNC) as file,
        ):
            assert os.pwrite(file, b"w" * 4096, 0) == 4096
            if lock == "exclusive":
                with pytest.raises(CommandError, match="exit code 30"):
                    ceph.rbd("group", "snap", "create", f"{group}@s-{lock}")
            else:
                ceph.rbd("group", "snap", "create", f"{group}@s-{lock}")
            assert os.pwrite(file, b"x" * 4096, 0) == 4096
            ceph.rbd("snap", "create", "--no-progress", f"{pool}/{image}@s-{lock}")
    ceph.rbd("group", "rm", group)
