"""What cephx allows a client: it sees that and no more."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.support.images import import_image
from tests.support.mounts import mounted, opened, processes_naming

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mounting


@dataclass(frozen=True)
class User:
    name: str
    keyring: Path

    @property
    def key(self) -> str:
        found = re.search(r"key = (\S+)", self.keyring.read_text())
        assert found is not None
        return found[1]

    @property
    def arguments(self) -> tuple[str, ...]:
        return ("--id", self.name, "-k", str(self.keyring))


@contextlib.contextmanager
def user(ceph: Ceph, directory: Path, *caps: str) -> Iterator[User]:
    name = f"user-{uuid.uuid4().hex[:8]}"
    keyring = directory / f"{name}.keyring"
    keyring.write_text(ceph.ceph("auth", "get-or-create", f"client.{name}", *caps))
    try:
        yield User(name, keyring)
    finally:
        ceph.ceph("auth", "rm", f"client.{name}")


@pytest.fixture(scope="module")
def images(ceph: Ceph, pool: str) -> str:
    """A pool with image `vm`, and `inside` in namespace `tenant`."""
    import_image(ceph, f"{pool}/vm", b"vm")
    ceph.rbd("namespace", "create", f"{pool}/tenant")
    import_image(ceph, f"{pool}/tenant/inside", b"inside")
    return pool


def refusal(command: list[str]) -> str:
    """What a start prints that is refused: one line."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"rbdfs: .*\n", done.stderr), done.stderr
    return done.stderr


@pytest.mark.parametrize(
    "caps",
    [
        ("mon", "allow r"),
        ("mon", "profile rbd", "osd", "profile rbd pool=another"),
    ],
    ids=" ".join,
)
def test_client_that_may_not_read_the_pool(
    ceph: Ceph, images: str, mounting: Mounting, tmp_path: Path, caps: tuple[str, ...]
) -> None:
    path = mounting.mountpoint()
    with user(ceph, tmp_path, *caps) as other:
        for source in (images, f"rbd:{images}/vm"):
            if source.startswith("rbd:"):
                path = mounting.directory / "file"
                path.touch()
            command = mounting.command(source, path, "--connect-timeout", "5", *other.arguments)
            line = refusal(command)
            # OSDs since 18 do not answer who has no capability for them at all.
            silent = (
                f"reading {source} (are its OSDs up, and has client.{other.name} caps for them?)"
            )
            assert f"client.{other.name} has no permission to read {source}" in line or (
                silent in line and "osd" not in caps
            )
            assert other.key not in line
            assert not mounted(path)


def test_client_of_a_namespace(ceph: Ceph, images: str, mounting: Mounting, tmp_path: Path) -> None:
    caps = ("mon", "profile rbd", "osd", f"profile rbd pool={images} namespace=tenant")
    with user(ceph, tmp_path, *caps) as tenant:
        assert "no permission" in refusal(
            mounting.command(images, mounting.mountpoint(), *tenant.arguments)
        )
        with mounting(f"{images}/tenant", *tenant.arguments) as mount:
            assert os.listdir(mount.path) == ["inside"]
            with opened(mount.file("inside"), os.O_RDWR) as file:
                assert os.pwrite(file, b"inside", 0) == 6


def test_all_pools_of_a_client_that_may_read_one(
    ceph: Ceph, images: str, mounting: Mounting, tmp_path: Path
) -> None:
    caps = ("mon", "profile rbd", "osd", f"profile rbd-read-only pool={images}")
    with (
        user(ceph, tmp_path, *caps) as guest,
        mounting(None, *guest.arguments) as mount,
    ):
        assert {images, "rbd"} <= set(os.listdir(mount.path))
        assert mount.file(f"{images}/vm").read_bytes() == b"vm"
        assert mount.file(f"{images}/tenant/inside").read_bytes() == b"inside"
        with pytest.raises(OSError, match="Read-only file system"):
            os.open(mount.file(f"{images}/vm"), os.O_RDWR)
        with pytest.raises(PermissionError):
            os.listdir(mount.file("rbd"))
        with pytest.raises(PermissionError):
            mount.file("rbd/vm").stat()
        assert mount.alive


def test_wrong_key_is_not_told(ceph: Ceph, images: str, mounting: Mounting) -> None:
    secret = "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=="
    path = mounting.mountpoint()
    for key in (secret, "nonsense"):
        command = mounting.command(images, path, "-o", f"keyring=/dev/null,key={key}")
        line = refusal(command)
        assert key not in line
        assert "client.admin" in line
    assert processes_naming(str(path)) == []
