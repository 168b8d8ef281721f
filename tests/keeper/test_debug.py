"""``rbdfs debug``: one archive of all that tells how a mount is doing, whatever hangs."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import tarfile
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.support.conditions import eventually, is_stopped
from tests.support.images import MIB, import_image, random_bytes
from tests.support.mounts import RBDFS, TIMEOUT_S, opened
from tests.support.servers import signal_server

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount, Mounting

pytestmark = pytest.mark.usefixtures("native")


def debug(mount: Mount, output: Path) -> tuple[list[str], dict[str, str]]:
    """What `rbdfs debug` says is wrong, and the files of its archive."""
    done = subprocess.run(
        [RBDFS, "debug", "--json", "--output", output, mount.path],
        capture_output=True,
        text=True,
        timeout=2 * TIMEOUT_S,
    )
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    assert answer["archive"] == str(output)
    return answer["findings"], archived(output)


def archived(path: Path) -> dict[str, str]:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    files = {}
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None
            files[member.name.removeprefix("rbdfs-debug/")] = file.read().decode()
    return files


def test_what_is_in_it(
    ceph: Ceph, pool: str, image_name: str, mounting: Mounting, tmp_path: Path
) -> None:
    import_image(ceph, f"{pool}/{image_name}", random_bytes(MIB))
    with mounting(pool) as mount, opened(mount.file(image_name), os.O_RDWR):
        findings, files = debug(mount, tmp_path / "archive")
        assert [line for line in findings if "nobody mends" not in line] == []
        assert f"mounted at '{mount.path}'" in files["server/log.txt"]
        assert "server 1 is ready" in files["keeper/log.txt"]
        for name in ("keeper", "server"):
            assert "Current thread" in files[f"{name}/stacks.txt"]
            assert "Max open files" in files[f"{name}/limits"]
            assert "VmRSS" in files[f"{name}/status"]
            used, most = json.loads(files[f"{name}/descriptors.json"])
            assert 3 < used < most
        assert "Serving._obey" in files["tasks.txt"]
        status = json.loads(files["status.json"])
        assert [each["spec"] for each in status["files"]] == [f"{pool}/{image_name}"]
        assert json.loads(files["cluster.json"]) == "nothing keeps requests waiting"
        # Where nobody has mounted fusectl, that is what there is to say.
        assert files["kernel/waiting"].strip() in ("0", "(No such file or directory)")
        assert str(mount.path) in files["server/mountinfo"]
        versions = json.loads(files["versions.json"])
        assert versions["packages"]["librbd1"]
        assert any("librbd" in name for name in versions["loaded"])


def test_it_overwrites_nothing(pool: str, mounting: Mounting, tmp_path: Path) -> None:
    there, link = tmp_path / "there", tmp_path / "link"
    there.write_text("mine")
    link.symlink_to(tmp_path / "elsewhere")
    with mounting(pool) as mount:
        for path in (there, link, tmp_path / "no" / "directory"):
            done = subprocess.run(
                [RBDFS, "debug", "--output", path, mount.path], capture_output=True, text=True
            )
            assert done.returncode == 1
            assert done.stderr.startswith(f"rbdfs: cannot write {str(path)!a}: ")
        assert there.read_text() == "mine"
        assert not (tmp_path / "elsewhere").exists()
        # By its own name it lands here; and says so to a person.
        done = subprocess.run(
            [RBDFS, "debug", mount.path], capture_output=True, text=True, cwd=tmp_path
        )
        (path,) = tmp_path.glob(f"rbdfs-debug-{os.uname().nodename}-*.tar.gz")
        assert done.stdout.endswith(f"written: {path.name}\n")
        assert "server/log.txt" in archived(path)


@pytest.mark.parametrize("who", ["server", "keeper"])
def test_who_is_stopped_is_told(pool: str, mounting: Mounting, tmp_path: Path, who: str) -> None:
    with mounting(pool, lifetime_s=120) as mount:
        server = signal_server(mount, signal.SIGSTOP if who == "server" else signal.SIGCONT)
        pid = server if who == "server" else mount.pid
        os.kill(pid, signal.SIGSTOP)
        eventually(lambda: is_stopped(pid), what="the stop")
        try:
            findings, files = debug(mount, tmp_path / "archive")
        finally:
            os.kill(pid, signal.SIGCONT)
        assert f"the {who} is stopped (SIGSTOP, or a debugger)" in findings
        assert "no status: keeper or server do not answer" in findings
        # What it has logged is there all the same, and where the other one is.
        assert f"mounted at '{mount.path}'" in files["server/log.txt"]
        other = "keeper" if who == "server" else "server"
        assert "Current thread" in files[f"{other}/stacks.txt"]
        assert "TimeoutError" in files[f"{who}/stacks.txt"]
        # The signal that waited for it is no harm.
        assert mount.alive


def test_without_a_keeper(pool: str, mounting: Mounting, tmp_path: Path) -> None:
    with mounting(pool, exit_code=None) as mount:
        mount.allow_log("the keeper is gone")
        os.kill(mount.pid, signal.SIGKILL)
        mount.wait()
        findings, files = debug(mount, tmp_path / "archive")
        assert any(line.startswith("no keeper answers: the mount is dead") for line in findings)
        assert json.loads(files["mount.json"])["mountpoint"] == str(mount.path)
        assert "kernel/waiting" in files


def test_what_waits_is_told(
    ceph: Ceph, pool: str, image_name: str, mounting: Mounting, tmp_path: Path
) -> None:
    import_image(ceph, f"{pool}/{image_name}", random_bytes(MIB))
    with mounting(pool) as mount, ThreadPoolExecutor(1) as threads:
        mount.allow_log(r"flush: .* does not say")
        path = mount.file(image_name)
        assert path.stat()
        with ceph.stalled("osd.0"):
            read = threads.submit(path.read_bytes)

            def findings() -> list[str]:
                output = tmp_path / f"archive-{len(list(tmp_path.iterdir()))}"
                return [line for line in debug(mount, output)[0] if " waits for " in line]

            try:
                (line,) = eventually(findings, what="what waits")
            finally:
                ceph.signal("osd.0", signal.SIGCONT)
            assert line.startswith(f"{pool}/{image_name} waits for ")
        assert read.result(TIMEOUT_S) == random_bytes(MIB)


def test_no_secret_is_in_it(ceph: Ceph, pool: str, mounting: Mounting, tmp_path: Path) -> None:
    key = ceph.ceph("auth", "get-key", "client.admin").strip()
    with mounting(pool, "-d", "-o", f"key={key}") as mount:
        _, files = debug(mount, tmp_path / "archive")
        assert [name for name, text in files.items() if key in text] == []
        assert "key=***" in files["keeper/cmdline"]
