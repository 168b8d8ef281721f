"""What keeps every server from starting: files fail in the end, until `rbdfs restart` repairs it.

And what only seems to: names that have changed, and paths that lead elsewhere now.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import tests.support.impatient as impatient
from tests.support.conditions import eventually
from tests.support.images import MIB, import_image, random_bytes
from tests.support.mounts import RBDFS, opened
from tests.support.refusals import refusal
from tests.support.servers import ask, killed_server, signal_server

if TYPE_CHECKING:
    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount, Mounting

pytestmark = pytest.mark.usefixtures("native")

IMPATIENT = [sys.executable, impatient.__file__]
EVIL = "import os\nopen(os.environ['CAUGHT'], 'a').write(__name__)\nraise SystemExit(7)\n"


def given_up(mount: Mount, why: str) -> None:
    """Kill the server of an impatient mount, and wait until there is none any more."""
    signal_server(mount, signal.SIGKILL)
    eventually(lambda: ask(mount, "status")["state"] == "given up", what="the end of tries")
    status = ask(mount, "status")
    assert why in status["last_fault"], status
    mount.expect_log(r"ERROR .*server \d was killed \(signal 9\)", "CRITICAL .*giving up")
    mount.allow_log(r"ERROR .*: server \d failed: ", "ERROR .*cannot start a server: ")
    mount.allow_log(r"ERROR .*the server ends\n")


def test_modules_and_a_mount_point_in_the_way_of_imports(
    pool: str, image: str, mounting: Mounting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server imports from the installation alone, not from the directory of whoever mounts."""
    caught = tmp_path / "caught"
    monkeypatch.setenv("CAUGHT", str(caught))
    for name in ("json", "trio", "rados", "ctypes", "logging"):
        (tmp_path / f"{name}.py").write_text(EVIL)
    # A successor that looked there would wait for itself.
    path = tmp_path / "rbdfs"
    path.mkdir()
    program = ["env", "-C", str(tmp_path), str(RBDFS)]
    with mounting(pool, mountpoint=path, program=program) as mount:
        assert ask(mount, "restart")["generation"] == 2
        killed_server(mount, 3)
        assert mount.file(image).read_bytes() == random_bytes(MIB)
    assert not caught.exists()


def test_mounted_from_within_by_relative_paths(
    pool: str, image: str, mounting: Mounting, tmp_path: Path
) -> None:
    path = tmp_path / "m"
    path.mkdir()
    python, script = (os.path.relpath(program, path) for program in (sys.executable, RBDFS))
    # Python 3.14 wonders about a path to itself that has `..` in it.
    quiet = "PYTHONWARNINGS=ignore:Unexpected value in sys:RuntimeWarning"
    program = ["env", "-C", str(path), quiet, python, script]
    with (
        mounting(pool, mountpoint=path, program=program) as mount,
        opened(mount.file(image), os.O_RDONLY) as file,
    ):
        assert ask(mount, "restart")["generation"] == 2
        killed_server(mount, 3)
        assert os.pread(file, 4, 0) == random_bytes(MIB)[:4]


def test_an_interpreter_that_has_gone(
    pool: str, image: str, mounting: Mounting, tmp_path: Path
) -> None:
    """Its place is taken at the start; one that is upgraded is not there for a moment."""
    link = tmp_path / "venv"
    link.symlink_to(Path(sys.executable).parents[1])
    program = [str(link / "bin" / "python3"), impatient.__file__]
    with (
        mounting(pool, program=program) as mount,
        opened(mount.file(image), os.O_RDWR | os.O_DIRECT) as file,
    ):
        link.rename(tmp_path / "elsewhere")
        given_up(mount, "cannot start a server")
        assert refusal(lambda: os.fsync(file)) == "EIO"
        (tmp_path / "elsewhere").rename(link)
        assert ask(mount, "restart")["state"] == "serving"
        os.fsync(file)
        assert mount.file(image).read_bytes() == random_bytes(MIB)


def test_an_image_that_is_the_mount_and_is_renamed(
    ceph: Ceph, pool: str, image: str, mounting: Mounting, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.touch()
    with (
        mounting(f"rbd:{pool}/{image}", mountpoint=path) as mount,
        opened(path, os.O_RDWR) as file,
    ):
        ceph.rbd("rename", f"{pool}/{image}", f"{pool}/{image}-renamed")
        assert ask(mount, "restart")["generation"] == 2
        assert os.pread(file, 4, 0) == random_bytes(MIB)[:4]
        killed_server(mount, 3)
        assert os.pwrite(file, b"there", 0) == 5
        os.fsync(file)


def test_a_pool_that_is_renamed(ceph: Ceph, image_name: str, mounting: Mounting) -> None:
    with ceph.temporary_pool() as pool:
        import_image(ceph, f"{pool}/{image_name}", random_bytes(MIB))
        with (
            mounting(pool) as mount,
            opened(mount.file(image_name), os.O_RDWR) as file,
            contextlib.ExitStack() as stack,
        ):
            ceph.ceph("osd", "pool", "rename", pool, f"{pool}-new")
            stack.callback(ceph.ceph, "osd", "pool", "rename", f"{pool}-new", pool)
            killed_server(mount)
            assert os.pread(file, 4, 0) == random_bytes(MIB)[:4]


def test_a_client_that_may_not_fence(ceph: Ceph, pool: str, image: str, mounting: Mounting) -> None:
    user = f"client.nofence-{image}"
    osd = f"allow rwx pool={pool}"
    key = ceph.ceph("auth", "get-or-create", user, "mon", "allow r", "osd", osd)
    keyring = mounting.directory / "keyring"
    keyring.write_text(key)
    arguments = ["--id", user.removeprefix("client."), "-k", str(keyring)]
    with mounting(pool, *arguments, program=IMPATIENT) as mount:
        mount.expect_log("WARNING .*may not fence")
        with opened(mount.file(image), os.O_RDONLY) as file:
            # Who has only read has nothing to fence.
            mount.expect_log("WARNING .*not fenced")
            killed_server(mount)
            assert os.pread(file, 4, 0) == random_bytes(MIB)[:4]
        with opened(mount.file(image), os.O_RDWR) as file:
            os.pwrite(file, b"known", 0)
            given_up(mount, "fencing")
            assert refusal(lambda: os.pread(file, 4, MIB // 2)) == "EIO"
            ceph.ceph("auth", "caps", user, "mon", "profile rbd", "osd", osd)
            assert ask(mount, "restart")["state"] == "serving"
            assert os.pread(file, 5, 0) == b"known"
    ceph.ceph("auth", "rm", user)
