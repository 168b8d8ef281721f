"""`-o manage`: ordinary programs make, copy, rename and remove; without it nothing changes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.ceph import CommandError, run
from tests.support.conditions import SEEN_S, eventually
from tests.support.images import (
    MIB,
    export_image,
    import_image,
    open_image,
    pool_objects,
    random_bytes,
)
from tests.support.mounts import opened
from tests.support.refusals import refusal
from tests.support.space import assert_same

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount, Mounting

# No whole number of objects, of pages or of sectors.
SIZE = 9 * MIB + 1234


@pytest.fixture(scope="module")
def managed(module_mounting: Mounting, pool: str) -> Iterator[Mount]:
    with module_mounting(pool, "-o", "manage=snapshots", lifetime_s=180.0) as mount:
        yield mount


@pytest.fixture
def new(managed: Mount, image_name: str) -> Path:
    """A file that is not there."""
    return managed.file(image_name)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A local file with a hole: data, 4 MiB of nothing, data up to its odd end."""
    path = tmp_path / "source"
    with path.open("wb") as file:
        file.write(random_bytes(MIB, 1))
        file.seek(5 * MIB)
        file.write(random_bytes(SIZE - 5 * MIB, 2))
    return path


def info(ceph: Ceph, spec: str) -> Any:
    return json.loads(ceph.rbd("info", "--format=json", spec))


def trashed(ceph: Ceph, pool: str) -> list[str]:
    return [entry["name"] for entry in json.loads(ceph.rbd("trash", "ls", "--format=json", pool))]


def test_qemu_img_create(ceph: Ceph, pool: str, new: Path) -> None:
    run("qemu-img", "create", "-q", "-f", "raw", str(new), str(20 * MIB + 512))
    assert new.stat().st_size == info(ceph, f"{pool}/{new.name}")["size"] == 20 * MIB + 512
    # It writes the first block, to learn later what direct I/O asks for: an object.
    assert new.stat().st_blocks * 512 <= 4 * MIB
    # As `rbd create` would have made it.
    ceph.rbd("create", "--size=1M", f"{pool}/{new.name}-b")
    features = info(ceph, f"{pool}/{new.name}-b")["features"]
    assert info(ceph, f"{pool}/{new.name}")["features"] == features


@pytest.mark.parametrize(
    "command",
    [
        ["cp", "SOURCE", "TARGET"],
        ["cp", "--sparse=always", "SOURCE", "TARGET"],
        ["cp", "--sparse=never", "--reflink=never", "SOURCE", "TARGET"],
        ["dd", "if=SOURCE", "of=TARGET", "bs=100k", "status=none"],
        ["dd", "if=SOURCE", "of=TARGET", "bs=1M", "conv=sparse,fsync", "status=none"],
        ["rsync", "-S", "--inplace", "SOURCE", "TARGET"],
        ["sh", "-c", 'cat "SOURCE" > "TARGET"'],
    ],
    ids=" ".join,
)
def test_copy_into_a_new_file(
    ceph: Ceph, pool: str, new: Path, source: Path, command: list[str]
) -> None:
    # Permissions are those of the mount, and a program that cannot set them says so.
    source.chmod(0o600)
    words = [word.replace("SOURCE", str(source)).replace("TARGET", str(new)) for word in command]
    run(*words)
    assert info(ceph, f"{pool}/{new.name}")["size"] == new.stat().st_size == SIZE
    assert_same(new, source)
    assert export_image(ceph, f"{pool}/{new.name}") == source.read_bytes()
    assert ceph.watchers(f"{pool}/{new.name}") == []


@pytest.mark.parametrize("cache", ["none", "writeback"])
def test_qemu_img_convert(
    ceph: Ceph, pool: str, new: Path, source: Path, tmp_path: Path, cache: str
) -> None:
    # QEMU takes a file whose direct I/O has no alignment for one with blocks of 4096 bytes, and
    # writes whole ones.
    os.truncate(source, SIZE // 4096 * 4096)
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(source), str(tmp_path / "qcow2"))
    run("qemu-img", "convert", "-t", cache, "-O", "raw", str(tmp_path / "qcow2"), str(new))
    assert info(ceph, f"{pool}/{new.name}")["size"] == SIZE // 4096 * 4096
    assert export_image(ceph, f"{pool}/{new.name}") == source.read_bytes()


def test_a_file_that_is_copied_over_gets_the_new_size(
    ceph: Ceph, pool: str, new: Path, source: Path
) -> None:
    import_image(ceph, f"{pool}/{new.name}", random_bytes(12 * MIB, 3))
    image_id = info(ceph, f"{pool}/{new.name}")["id"]
    eventually(new.exists, SEEN_S, "the image")
    run("cp", str(source), str(new))
    assert info(ceph, f"{pool}/{new.name}")["id"] == image_id
    assert export_image(ceph, f"{pool}/{new.name}") == source.read_bytes()
    run("truncate", "-s", str(MIB), str(new))
    assert export_image(ceph, f"{pool}/{new.name}") == source.read_bytes()[:MIB]


def test_a_writer_that_is_killed_leaves_what_it_wrote(ceph: Ceph, pool: str, new: Path) -> None:
    script = "import os, sys; os.write(1, b'x' * int(sys.argv[1])); os.write(2, b'!'); input()"
    with (
        new.open("xb", buffering=0) as file,
        subprocess.Popen(
            [sys.executable, "-c", script, str(SIZE)],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.PIPE,
        ) as writer,
    ):
        assert writer.stderr is not None
        assert writer.stderr.read(1) == b"!"
        # While it grows, the image is larger than the file.
        assert new.stat().st_size == SIZE <= info(ceph, f"{pool}/{new.name}")["size"]
        writer.kill()
    eventually(lambda: info(ceph, f"{pool}/{new.name}")["size"] == SIZE, what="the true size")
    assert export_image(ceph, f"{pool}/{new.name}") == b"x" * SIZE


def test_options_of_what_is_made(
    ceph: Ceph, pool: str, image_name: str, source: Path, mounting: Mounting
) -> None:
    with mounting(pool, "-o", "manage,data_pool=rbd,object_size=1M") as mount:
        run("cp", str(source), str(mount.file(image_name)))
        value = os.getxattr(mount.file(image_name), "user.rbd.data_pool")
    found = info(ceph, f"{pool}/{image_name}")
    assert (found["data_pool"], found["object_size"], value) == ("rbd", MIB, b"rbd")
    assert export_image(ceph, f"{pool}/{image_name}") == source.read_bytes()


def test_snapshots_are_links(ceph: Ceph, pool: str, new: Path) -> None:
    import_image(ceph, f"{pool}/{new.name}", b"before")
    eventually(new.exists, SEEN_S, "the image")
    snap = f"{new}@before"
    run("ln", str(new), snap)
    with opened(new, os.O_RDWR) as file:
        os.pwrite(file, b"after ", 0)
    assert export_image(ceph, f"{pool}/{new.name}@before") == b"before"
    with opened(snap, os.O_RDONLY) as file:
        assert os.pread(file, 6, 0) == b"before"
    for wrong in (f"{new}-hard", f"{new}@a/b", f"{new}-other@s"):
        with pytest.raises(CommandError):
            run("ln", str(new), wrong)
    with pytest.raises(CommandError, match="File exists"):
        run("ln", str(new), snap)
    run("mv", snap, f"{new}@then")
    ceph.rbd("snap", "protect", f"{pool}/{new.name}@then")
    with pytest.raises(CommandError, match="busy"):
        run("rm", "-f", f"{new}@then")
    ceph.rbd("snap", "unprotect", f"{pool}/{new.name}@then")
    run("rm", "-f", f"{new}@then")
    assert json.loads(ceph.rbd("snap", "ls", "--format=json", f"{pool}/{new.name}")) == []
    assert export_image(ceph, f"{pool}/{new.name}") == b"after "


def test_what_is_removed_lies_in_the_trash(ceph: Ceph, pool: str, new: Path) -> None:
    import_image(ceph, f"{pool}/{new.name}", b"content")
    ceph.rbd("snap", "create", "--no-progress", f"{pool}/{new.name}@s")
    image_id = info(ceph, f"{pool}/{new.name}")["id"]
    eventually(new.exists, SEEN_S, "the image")
    with open_image(ceph, pool, new.name), pytest.raises(CommandError, match="busy"):
        run("rm", "-f", str(new))
    run("rm", "-f", str(new))
    assert not new.exists()
    assert new.name in trashed(ceph, pool)
    ceph.rbd("trash", "restore", "-p", pool, image_id)
    assert export_image(ceph, f"{pool}/{new.name}@s") == b"content"


def test_a_directory_that_is_cleared_can_be_brought_back(
    ceph: Ceph, pool: str, image_name: str, mounting: Mounting, tmp_path: Path
) -> None:
    """Tools remove the snapshots first, and no trash keeps those: with plain `manage` they stay."""
    ceph.rbd("namespace", "create", f"{pool}/{image_name}")
    spec = f"{pool}/{image_name}/vm"
    import_image(ceph, spec, b"content")
    for snap in ("one", "two"):
        ceph.rbd("snap", "create", "--no-progress", f"{spec}@{snap}")
    image_id = info(ceph, spec)["id"]
    (tmp_path / "empty").mkdir()
    with mounting(f"{pool}/{image_name}", "-o", "manage") as mount:
        assert refusal(lambda: os.unlink(mount.file("vm@one"))) == "EPERM"
        sync = ["rsync", "-r", "--delete", f"{tmp_path}/empty/", f"{mount.path}/"]
        done = subprocess.run(sync, capture_output=True, text=True, timeout=30)
        assert "unlink(vm@one) failed: Operation not permitted" in done.stderr
        assert os.listdir(mount.path) == []
        mount.expect_log(r"vm@one is refused: only -o manage=snapshots allows it")
    assert mount.log_text.count("manage=snapshots") == 1
    ceph.rbd("trash", "restore", "-p", pool, "--namespace", image_name, image_id)
    for snap in ("one", "two"):
        assert export_image(ceph, f"{spec}@{snap}") == b"content"


def test_namespaces_are_made_and_removed(ceph: Ceph, pool: str, new: Path, source: Path) -> None:
    run("mkdir", str(new))
    assert new.name in ceph.rbd("namespace", "ls", pool)
    assert refusal(lambda: os.mkdir(new)) == "EEXIST"
    assert refusal(lambda: os.mkdir(new / "nested")) == "EPERM"
    run("cp", str(source), str(new / "vm"))
    assert export_image(ceph, f"{pool}/{new.name}/vm") == source.read_bytes()
    assert refusal(lambda: os.rmdir(new)) == "ENOTEMPTY"
    run("rm", "-f", str(new / "vm"))
    # Its trash has it still.
    assert refusal(lambda: os.rmdir(new)) == "ENOTEMPTY"
    ceph.rbd("trash", "purge", "--no-progress", f"{pool}/{new.name}")
    run("rmdir", str(new))
    assert new.name not in ceph.rbd("namespace", "ls", pool)


def test_image_meta(ceph: Ceph, pool: str, new: Path) -> None:
    ceph.rbd("create", "--size=1M", f"{pool}/{new.name}")
    eventually(new.exists, SEEN_S, "the image")
    run("setfattr", "-n", "user.rbd.meta.owner", "-v", "me", str(new))
    assert ceph.rbd("image-meta", "get", f"{pool}/{new.name}", "owner").strip() == "me"
    assert "me" in run("getfattr", "--only-values", "-n", "user.rbd.meta.owner", str(new))
    run("setfattr", "-x", "user.rbd.meta.owner", str(new))
    assert "owner" not in ceph.rbd("image-meta", "ls", f"{pool}/{new.name}")


PROGRAMS = {
    "qemu-img create": ["qemu-img", "create", "-f", "raw", "NEW", "1M"],
    "qemu-img convert": ["qemu-img", "convert", "-f", "raw", "-O", "raw", "SOURCE", "NEW"],
    "cp": ["cp", "SOURCE", "NEW"],
    "cp over": ["cp", "SOURCE", "IMAGE"],
    "dd": ["dd", "if=SOURCE", "of=NEW"],
    "dd over": ["dd", "if=SOURCE", "of=IMAGE"],
    "rsync": ["rsync", "--inplace", "SOURCE", "NEW"],
    "rsync by another name": ["rsync", "SOURCE", "NEW"],
    "tar": ["tar", "-xf", "ARCHIVE", "-C", "MOUNT"],
    "touch": ["touch", "NEW"],
    "truncate": ["truncate", "-s", "0", "IMAGE"],
    "ln": ["ln", "IMAGE", "IMAGE@new"],
    "ln -s": ["ln", "-s", "IMAGE", "NEW"],
    "mv": ["mv", "IMAGE", "NEW"],
    "mv snapshot": ["mv", "IMAGE@s", "IMAGE@t"],
    "rm": ["rm", "-f", "IMAGE"],
    "rm snapshot": ["rm", "-f", "IMAGE@s"],
    "rm -r": ["rm", "-rf", "MOUNT/IMAGE-ns"],
    "mkdir": ["mkdir", "NEW"],
    "rmdir": ["rmdir", "MOUNT/IMAGE-empty"],
    "mkfifo": ["mkfifo", "NEW"],
    "chmod": ["chmod", "644", "IMAGE"],
    "setfattr": ["setfattr", "-n", "user.rbd.meta.owner", "-v", "me", "IMAGE"],
    "setfattr -x": ["setfattr", "-x", "user.rbd.meta.kept", "IMAGE"],
}


@pytest.fixture(scope="module")
def unmanaged(ceph: Ceph, pool: str, module_mounting: Mounting) -> Iterator[Mount]:
    """A mount without the option, of a pool with image `vm`, and a namespace with images."""
    import_image(ceph, f"{pool}/vm", random_bytes(MIB))
    ceph.rbd("snap", "create", "--no-progress", f"{pool}/vm@s")
    ceph.rbd("image-meta", "set", f"{pool}/vm", "kept", "yes")
    for namespace in ("vm-ns", "vm-empty"):
        ceph.rbd("namespace", "create", f"{pool}/{namespace}")
    import_image(ceph, f"{pool}/vm-ns/inside", b"inside")
    with module_mounting(pool) as mount:
        yield mount


@pytest.mark.parametrize("command", PROGRAMS.values(), ids=PROGRAMS)
def test_without_the_option_nothing_changes(
    ceph: Ceph, pool: str, unmanaged: Mount, source: Path, tmp_path: Path, command: list[str]
) -> None:
    archive = tmp_path / "archive.tar"
    run("tar", "-cf", str(archive), "-C", str(tmp_path), source.name)
    names = {"MOUNT/IMAGE": f"{unmanaged.path}/vm", "IMAGE": f"{unmanaged.path}/vm"}
    names |= {"NEW": f"{unmanaged.path}/new", "SOURCE": str(source), "MOUNT": str(unmanaged.path)}
    names |= {"ARCHIVE": str(archive)}
    words = command
    for name, text in names.items():
        words = [word.replace(name, text) for word in words]
    before = pool_objects(ceph, pool)
    done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    assert done.returncode != 0
    assert "Operation not permitted" in done.stdout + done.stderr
    assert pool_objects(ceph, pool) == before
    assert sorted(os.listdir(unmanaged.path / "vm-ns")) == ["inside"]
