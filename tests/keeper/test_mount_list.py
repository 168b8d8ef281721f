"""`rbdfs mounts`: each mount of this host with how it is doing, whatever the others do."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from rbdfs.keeper import mount_list
from tests.support.images import MIB, import_image, random_bytes
from tests.support.mounts import RBDFS, TIMEOUT_S, opened
from tests.support.servers import kill_keeper_and_server, server_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mounting

pytestmark = pytest.mark.usefixtures("native")
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


def listed(*prefix: str) -> dict[str, dict[str, Any]]:
    """The mounts by their mount points, with those of other tests."""
    done = subprocess.run(
        [*prefix, str(RBDFS), "mounts", "--json"], capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert (done.returncode, done.stderr) == (0, "")
    return {each["mountpoint"]: each for each in json.loads(done.stdout)}


def lines() -> list[str]:
    done = subprocess.run([str(RBDFS), "mounts"], capture_output=True, text=True, timeout=TIMEOUT_S)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split("\n")


def test_those_that_serve(ceph: Ceph, pool: str, image_name: str, mounting: Mounting) -> None:
    import_image(ceph, f"{pool}/{image_name}", random_bytes(MIB))
    odd = mounting.mountpoint("line\nbreak \x1b[31m")
    with (
        mounting(pool) as mount,
        mounting("rbd", mountpoint=odd),
        mounting(pool, "-o", "datapath=python") as alone,
        opened(mount.file(image_name), os.O_RDONLY),
    ):
        found = listed()
        assert found[str(mount.path)] == {
            "source": pool,
            "mountpoint": str(mount.path),
            "state": "serving",
            "keeper": mount.pid,
            "open_files": 1,
        }
        assert found[str(odd)]["source"] == "rbd"
        # It has no keeper, so nobody tells of its files.
        told = found[str(alone.path)]
        assert (told["state"], told["keeper"], told["open_files"]) == ("serving", None, None)
        table = lines()
        assert [f"{pool}", str(mount.path), "serving", "1"] in [line.split() for line in table]
        assert any("line\\nbreak \\x1b[31m" in line for line in table)
        # The socket of root's mounts is not for others, nor is the mount.
        for directory in mount.path.parents:
            directory.chmod(directory.stat().st_mode | 0o011)
        assert listed(*NOBODY)[str(mount.path)]["state"] == "unknown"


@pytest.mark.parametrize("who", ["keeper", "server"])
def test_one_that_hangs_does_not_hang_the_list(pool: str, mounting: Mounting, who: str) -> None:
    with mounting(pool) as hung, mounting("rbd") as other:
        server = server_of(hung)
        assert server is not None
        pid = hung.pid if who == "keeper" else server
        os.kill(pid, signal.SIGSTOP)
        try:
            found = listed()
        finally:
            os.kill(pid, signal.SIGCONT)
        assert found[str(hung.path)]["state"] == "no answer"
        assert found[str(other.path)]["state"] == "serving"


def test_one_without_a_keeper_that_hangs(pool: str, mounting: Mounting) -> None:
    with mounting(pool, "-o", "datapath=python") as mount:
        mount.signal(signal.SIGSTOP)
        try:
            assert listed()[str(mount.path)]["state"] == "no answer"
        finally:
            mount.signal(signal.SIGCONT)


def test_a_dead_one(pool: str, mounting: Mounting) -> None:
    with mounting(pool, exit_code=None) as mount:
        kill_keeper_and_server(mount)
        found = listed()[str(mount.path)]
        assert (found["state"], found["keeper"]) == ("dead", None)
        done = subprocess.run([RBDFS, "status", mount.path], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (
            1,
            f"rbdfs: '{mount.path}': mounted, but its server has gone: mount it again,"
            " or umount it\n",
        )
        mount.unmount()


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        ({"state": "serving", "server": 7}, "serving"),
        ({"state": "no server", "server": 7}, "restarting"),
        ({"state": "no server", "server": None}, "no server"),
        ({"state": "given up", "server": None}, "given up"),
        ({"state": "\x1b[2J", "server": 7}, "unknown"),
        ({"state": "dead", "server": 7}, "unknown"),
    ],
)
def test_what_a_keeper_says(answer: dict[str, Any], state: str) -> None:
    assert mount_list.state_of(answer) == state


@pytest.mark.parametrize(
    ("told", "files"),
    [(7, 7), (0, 0), (-1, None), (True, None), (2**40, None), ("7", None), (None, None)],
)
def test_how_many_files_a_keeper_tells_of(told: object, files: int | None) -> None:
    assert mount_list._open_files({"open_files": told}) == files


def test_a_terminal_that_does_not_know_a_character(
    mounting: Mounting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What somebody has named his mount point does not keep the others from being listed."""
    with mounting("rbd", mountpoint=mounting.mountpoint("\u20ac")):
        monkeypatch.setenv("PYTHONIOENCODING", "iso-8859-1")
        assert any(re.search(r"/\\u20ac +serving", line) for line in lines())


def test_no_mounts(tmp_path: Path) -> None:
    script = 'umount -l -a -t fuse.rbdfs; exec "$@"'
    inside = ["unshare", "--mount", "--propagation=private", "sh", "-c", script, "sh", str(RBDFS)]
    for arguments, output in ((("mounts",), ""), (("mounts", "--json"), "[]\n")):
        done = subprocess.run([*inside, *arguments], capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, output, "")
    assert (
        subprocess.run([str(RBDFS), "mounts", str(tmp_path)], capture_output=True).returncode == 2
    )
