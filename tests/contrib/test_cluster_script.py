"""contrib/cluster: it makes what it says, and leaves nothing behind."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.ceph import SCRIPT, Ceph, CommandError, run
from tests.support.conditions import eventually
from tests.support.mounts import processes_naming

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.cluster


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "cluster"
    yield path
    run(str(SCRIPT), "stop", str(path))


def test_memstore_cluster_from_start_to_stop(directory: Path) -> None:
    ceph = Ceph.start(directory)
    status = run(str(SCRIPT), "status", str(directory))
    assert status.splitlines() == [
        f"{daemon} up pid {ceph.pid(daemon)}" for daemon in ("mon.a", "mgr.x", "osd.0")
    ]
    pids = [ceph.pid(daemon) for daemon in ("mon.a", "mgr.x", "osd.0")]
    assert "is running" in run(str(SCRIPT), "start", str(directory))
    assert [ceph.pid(daemon) for daemon in ("mon.a", "mgr.x", "osd.0")] == pids
    assert ceph.ceph("health").startswith("HEALTH_OK")

    ceph.rbd("create", "--size=1M", "vm1", id="rw")
    assert ceph.rbd("ls", id="ro") == ceph.rbd("ls", id="rw") == "vm1\n"
    with pytest.raises(CommandError, match="Operation not permitted"):
        ceph.rbd("create", "--size=1M", "vm2", id="ro")

    ceph.stop()
    assert processes_naming(f"{directory}/ceph.conf") == []
    assert not directory.exists()


def test_env_names_the_configuration(directory: Path) -> None:
    Ceph.start(directory)
    script = 'eval "$("$1" env "$2")" && rbd create --size=1M vm1 && rbd ls'
    assert run("sh", "-c", script, "sh", str(SCRIPT), str(directory)) == "vm1\n"


def test_two_clusters_side_by_side(tmp_path: Path) -> None:
    directories = [tmp_path / "a", tmp_path / "b"]
    try:
        starting = [subprocess.Popen([SCRIPT, "start", path]) for path in directories]
        assert [process.wait(60) for process in starting] == [0, 0]
        a, b = (Ceph(path) for path in directories)
        a.rbd("create", "--size=1M", "only-in-a")
        assert b.rbd("ls") == ""
        b.stop()
        assert a.rbd("ls") == "only-in-a\n"
    finally:
        for path in directories:
            run(str(SCRIPT), "stop", str(path))


def test_long_directory(tmp_path: Path) -> None:
    """A unix socket's path has at most 107 bytes; the cluster's directory may have more."""
    directory = tmp_path / ("x" * 100)
    ceph = Ceph.start(directory)
    try:
        assert ceph.rbd("ls") == ""
        sockets = [line for line in ceph.conf.read_text().splitlines() if "run dir" in line]
        path = Path(sockets[0].partition(" = ")[2])
        assert (path / "osd.0.asok").is_socket()
    finally:
        ceph.stop()
    assert not path.exists()


def test_bluestore_keeps_data_over_a_kill(directory: Path) -> None:
    ceph = Ceph.start(directory, objectstore="bluestore")
    ceph.rbd("import", "--no-progress", "-", "vm1", input=b"data" * 1024)
    pid = ceph.pid("osd.0")
    ceph.stop_daemon("osd.0", kill=True)
    with pytest.raises(CommandError) as down:
        run(str(SCRIPT), "status", str(directory))
    assert down.value.returncode == 3
    with pytest.raises(CommandError, match=r"runs without osd\.0"):
        run(str(SCRIPT), "start", str(directory))
    ceph.start_daemon("osd.0")
    assert ceph.pid("osd.0") != pid
    assert ceph.rbd("export", "--no-progress", "vm1", "-") == "data" * 1024


def test_start_refuses_a_directory_with_other_files(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("keep")
    with pytest.raises(CommandError, match="files that are not of a cluster"):
        Ceph.start(tmp_path)
    run(str(SCRIPT), "stop", str(tmp_path))
    assert mine.read_text() == "keep"


def test_start_that_fails_leaves_nothing(directory: Path, tmp_path: Path) -> None:
    """The mon runs by the time that there turns out to be no OSD program."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("ceph-authtool", "monmaptool", "ceph-mon", "ceph-mgr", "ceph"):
        (programs / name).symlink_to(f"/usr/bin/{name}")
    failed = subprocess.run(
        [SCRIPT, "start", directory], env={"PATH": str(programs)}, capture_output=True, text=True
    )
    assert failed.returncode == 1
    assert failed.stderr == (
        "contrib/cluster: ceph-osd is not installed (contrib/setup installs it)\n"
    )
    assert processes_naming(f"{directory}/ceph.conf") == []
    assert not directory.exists()


def test_start_that_is_told_to_end_leaves_nothing(directory: Path) -> None:
    with subprocess.Popen([SCRIPT, "start", directory]) as starting:
        eventually(lambda: (directory / "mgr.x.pid").exists(), what="the mgr's start")
        starting.send_signal(signal.SIGTERM)
        assert starting.wait(30) == 128 + signal.SIGTERM
    assert processes_naming(f"{directory}/ceph.conf") == []
    assert not directory.exists()


def test_stop_spares_a_process_that_has_the_number_of_a_daemon(directory: Path) -> None:
    ceph = Ceph.start(directory)
    ceph.stop_daemon("mgr.x", kill=True)
    with subprocess.Popen(["sleep", "60"]) as stranger:
        try:
            (directory / "mgr.x.pid").write_text(f"{stranger.pid}\n")
            ceph.stop()
            assert stranger.poll() is None
        finally:
            stranger.kill()
