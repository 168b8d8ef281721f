"""qemu-img and qemu-io use the files as raw disks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.support.ceph import CommandError, run
from tests.support.images import MIB, export_image, import_image, random_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount

SIZE = 9 * MIB


@pytest.fixture
def path(ceph: Ceph, pool: str, image_name: str, mount: Mount) -> Path:
    """The file of an image, of which there is a snapshot `s`."""
    import_image(ceph, f"{pool}/{image_name}", random_bytes(SIZE))
    ceph.rbd("snap", "create", "--no-progress", f"{pool}/{image_name}@s")
    return mount.file(image_name)


def qemu_io(path: Path, *commands: str, cache: str = "none") -> str:
    arguments = [argument for command in commands for argument in ("-c", command)]
    output = run("qemu-io", "-f", "raw", "-t", cache, *arguments, str(path))
    # It exits with 0 whatever a command came to.
    assert "fail" not in output, output
    assert "error" not in output, output
    return output


@pytest.mark.parametrize("snap", ["", "@s"])
def test_info(path: Path, snap: str) -> None:
    info = json.loads(run("qemu-img", "info", "--output=json", f"{path}{snap}"))
    assert (info["format"], info["virtual-size"]) == ("raw", SIZE)
    assert info["actual-size"] == SIZE


def test_convert_out_and_compare(path: Path, tmp_path: Path) -> None:
    raw, qcow2 = str(tmp_path / "raw"), str(tmp_path / "qcow2")
    run("qemu-img", "convert", "-f", "raw", "-O", "raw", f"{path}@s", raw)
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-T", "none", str(path), qcow2)
    assert (tmp_path / "raw").read_bytes() == random_bytes(SIZE)
    for copy, kind in ((raw, "raw"), (qcow2, "qcow2")):
        assert "identical" in run("qemu-img", "compare", "-f", "raw", "-F", kind, str(path), copy)
    qemu_io(path, "write -P 7 5M 64k", "flush")
    with pytest.raises(CommandError) as difference:
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", str(path), raw)
    assert difference.value.returncode == 1
    assert "identical" in run("qemu-img", "compare", "-f", "raw", "-F", "raw", f"{path}@s", raw)


@pytest.mark.parametrize("cache", ["none", "writeback"])
def test_convert_in(
    ceph: Ceph, pool: str, image_name: str, path: Path, tmp_path: Path, cache: str
) -> None:
    source = tmp_path / "source"
    source.write_bytes(random_bytes(SIZE, 5))
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", "-t", cache, str(source), str(path))
    assert export_image(ceph, f"{pool}/{image_name}") == source.read_bytes()


@pytest.mark.parametrize("cache", ["none", "writeback"])
def test_patterns_written_and_read(
    ceph: Ceph, pool: str, image_name: str, path: Path, cache: str
) -> None:
    qemu_io(
        path,
        "write -P 0xaa 0 64k",
        "aio_write -P 0xbb 4193792 1k",
        "aio_write -P 0xcc 6M 1M",
        "aio_flush",
        "writev -P 0xdd 8M 4k 8k 512",
        "write -z 1M 128k",
        "flush",
        "read -P 0xaa 0 64k",
        "read -P 0xbb 4193792 1k",
        "read -P 0xcc 6M 1M",
        "read -P 0xdd 8M 12800",
        "read -P 0 1M 128k",
        cache=cache,
    )
    expected = bytearray(random_bytes(SIZE))
    for pattern, off, length in (
        (0xAA, 0, 65536),
        (0xBB, 4193792, 1024),
        (0xCC, 6 * MIB, MIB),
        (0xDD, 8 * MIB, 12800),
        (0, MIB, 128 * 1024),
    ):
        expected[off : off + length] = bytes([pattern]) * length
    assert export_image(ceph, f"{pool}/{image_name}") == expected


def test_snapshot_is_read_only(path: Path) -> None:
    assert "Read-only file system" in _stderr("qemu-io", "-f", "raw", "-c", "quit", f"{path}@s")
    run("qemu-io", "-r", "-f", "raw", "-c", "read 0 4k", f"{path}@s")


def _stderr(*command: str) -> str:
    try:
        run(*command)
    except CommandError as exc:
        return exc.stderr
    return ""
