"""``rbdfs debug``: one archive of all that tells how a mount is doing, whatever hangs."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import tests.support.impatient as impatient
from rbdfs.commands.findings import findings as found_wrong
from rbdfs.config.runtime_directory import ROOT_DIRECTORY
from rbdfs.keeper.command_socket import socket_path
from rbdfs.kernel.mount import place
from tests.support.conditions import eventually, is_stopped
from tests.support.images import MIB, import_image, random_bytes
from tests.support.impostors import impostor
from tests.support.mounts import RBDFS, TIMEOUT_S, mounted, opened
from tests.support.servers import ask, signal_server

if TYPE_CHECKING:
    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount, Mounting

pytestmark = pytest.mark.usefixtures("native")


NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
# rbdfs where the library is missing.
WITHOUT_PROMETHEUS = (
    sys.executable,
    "-c",
    "import sys; sys.modules['prometheus_client'] = None;"
    "from rbdfs.cli import main; sys.exit(main(sys.argv[1:]))",
)


def debug(
    mount: Mount | Path, output: Path, *program: str | Path
) -> tuple[list[str], dict[str, str]]:
    """What `rbdfs debug` says is wrong, and the files of its archive."""
    path = mount if isinstance(mount, Path) else mount.path
    done = subprocess.run(
        [*(program or (RBDFS,)), "debug", "--json", "--output", output, path],
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
        told = f'rbdfs_mount_info{{mountpoint="{mount.path}",source="{pool}"}} 1.0'
        assert told in files["metrics.txt"].splitlines()
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


def test_figures_without_the_library(pool: str, mounting: Mounting, tmp_path: Path) -> None:
    with mounting(pool) as mount:
        _, files = debug(mount, tmp_path / "archive", *WITHOUT_PROMETHEUS)
        reason, _, figures = files["metrics.txt"].partition("\n")
        assert reason.startswith("# ")
        assert json.loads(figures)["figures"]["files_open"] == 0


@pytest.mark.parametrize(
    ("script", "state", "finding"),
    [
        (RBDFS, "no server", "no server: requests wait until one is started"),
        (
            impatient.__file__,
            "given up",
            "given up: requests fail with EIO (`rbdfs restart` tries again)",
        ),
    ],
    ids=["held back", "given up"],
)
def test_a_server_that_is_killed_and_none_comes(
    pool: str, mounting: Mounting, tmp_path: Path, script: str | Path, state: str, finding: str
) -> None:
    """The archive says so, and has the metrics and the log of the keeper, which has outlived it."""
    link = tmp_path / "venv"
    link.symlink_to(Path(sys.executable).parents[1])
    with mounting(pool, program=[str(link / "bin" / "python3"), str(script)]) as mount:
        mount.allow_log(".")
        link.rename(tmp_path / "elsewhere")
        signal_server(mount, signal.SIGKILL)

        def has_gone() -> bool:
            status = ask(mount, "status")
            return "cannot start" in status["last_fault"] and status["state"] == state

        eventually(has_gone, what=state)
        findings, files = debug(mount, tmp_path / "archive")
        (tmp_path / "elsewhere").rename(link)
        assert finding in findings
        assert any(line.startswith("the last fault: cannot start") for line in findings)
        assert "cannot start a server" in files["keeper/log.txt"]
        assert "server/log.txt" not in files
        assert "rbdfs_mount_info" in files["metrics.txt"]
        assert json.loads(files["status.json"])["server"] is None
        reason = f"(UserError: {str(mount.path)!a}: there is no server)"
        assert files["cluster.json"].strip() == reason
        assert ask(mount, "restart")["state"] == "serving"


def test_as_the_user_who_mounted(ceph: Ceph, pool: str, mounting: Mounting, tmp_path: Path) -> None:
    """Another's mount is refused by its keeper, one's own tells the user all; and root as well."""
    theirs = mounting.mountpoint("theirs")
    private = tmp_path / "private"
    private.mkdir()
    conf, keyring = private / "ceph.conf", private / "keyring"
    conf.write_text(ceph.conf.read_text())
    keyring.write_text(ceph.keyring("rw").read_text())
    for path in (private, conf, keyring, theirs):
        os.chown(path, 65534, 65534)
    for path in (*theirs.parents, *private.parents):
        path.chmod(path.stat().st_mode | 0o011)
    arguments = ["-c", str(conf), "--id", "rw", "-k", str(keyring), pool, str(theirs)]
    environment = os.environ | {"HOME": "/nonexistent"}
    command = [*NOBODY, str(RBDFS), *arguments]
    done = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    try:
        for name, who in (("archive", (*NOBODY, RBDFS)), ("of-root", (RBDFS,))):
            findings, files = debug(theirs, private / name, *who)
            assert [line for line in findings if "nobody mends" not in line] == []
            assert json.loads(files["status.json"])["state"] == "serving"
            assert "rbdfs_mount_info" in files["metrics.txt"]
            assert f"mounted at '{theirs}'" in files["server/log.txt"]
    finally:
        subprocess.run([RBDFS, "umount", theirs], check=True, timeout=TIMEOUT_S)
    assert not mounted(theirs)


ANSWER = {"mountpoint": "/m", "source": "p", "state": "serving", "keeper": 1}
ODD = "\x1b[31m\x07 \u202e \ud800 \r"


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "nonsense \x1b[31m",
        "[" * 100_000,
        json.dumps(ANSWER | {"state": ODD, "last_fault": ODD, "health": ODD, "tasks": ODD}),
        json.dumps(ANSWER | {"files": [{"error": 1, "spec": ODD}] * 1000, "waiting": [{}] * 1000}),
        json.dumps(ANSWER)[:-1] + ', "health": ' + "[" * 900 + "]" * 900 + "}",
        json.dumps(ANSWER)[:-1] + ', "last_fault": ' + "[" * 300 + "]" * 300 + "}",
    ],
    ids=["nothing", "garbage", "nested", "odd", "many", "deep", "less deep"],
)
def test_a_keeper_that_is_none(pool: str, mounting: Mounting, tmp_path: Path, answer: str) -> None:
    with mounting(pool) as mount:
        path = socket_path(ROOT_DIRECTORY, place(str(mount.path)).device)
        path.unlink()
        command = [str(RBDFS), "debug", "--output", str(tmp_path / "archive"), str(mount.path)]
        with impostor(str(path), 0, answer):
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
        path.unlink()
        assert (done.returncode, done.stderr) == (0, "")
        lines = done.stdout.splitlines()
        assert all(line.isprintable() for line in done.stdout.split("\n"))
        assert 1 < len(lines) < 310
        assert "mount.json" in archived(tmp_path / "archive")


def test_what_waits_is_told_with_the_reason_where_that_is_known() -> None:
    waiting = [
        {"image": "rbd/vm1", "seconds": 7.7, "reason": None},
        {"image": "rbd/vm2", "seconds": 12.0, "reason": "osd.0 is down"},
    ]
    facts = {"keeper": 1, "server": 2, "status": {"state": "serving", "waiting": waiting}}
    assert found_wrong(facts) == [
        "rbd/vm1 waits for 7.7 s",
        "rbd/vm2 waits for 12.0 s: osd.0 is down",
    ]


def test_a_log_that_is_none() -> None:
    """What is counted in it may be no number that Python reads."""
    facts = {"keeper": 1, "server": 2, "status": {"state": "serving"}}
    assert found_wrong(facts | {"server_log": f": {'9' * 10_000} lines are missing"}) == []
