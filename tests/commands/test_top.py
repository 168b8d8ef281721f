"""`rbdfs top --once`: the work of real clients, as a program and a person are told of it."""

from __future__ import annotations

import json
import mmap
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rbdfs.commands.top import facts
from rbdfs.commands.watched_mounts import WatchedMounts
from rbdfs.errors import UserError
from tests.support.conditions import eventually
from tests.support.mounts import RBDFS, TIMEOUT_S, opened
from tests.support.servers import kill_keeper_and_server, killed_server, server_of

if TYPE_CHECKING:
    from tests.support.mounts import Mount, Mounting

pytestmark = pytest.mark.usefixtures("native")

BLOCK = 4096
# Long enough for a server to be replaced meanwhile, in seconds.
INTERVAL_S = 12


def read_and_write(file: int, reads: int, writes: int) -> None:
    """So many of each, past the page cache."""
    block = mmap.mmap(-1, BLOCK)
    for number in range(reads):
        assert os.preadv(file, [block], number * BLOCK) == BLOCK
    for number in range(writes):
        assert os.pwritev(file, [block], number * BLOCK) == BLOCK


def top(*arguments: str, columns: int = 80) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(RBDFS), "top", *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"COLUMNS": str(columns)},
    )


def has_looked(pid: int) -> bool:
    """Whether it waits for the end of its interval: in poll(2), for longer than for an answer."""
    words = Path(f"/proc/{pid}/syscall").read_text(encoding="ascii").split()
    return words[0] == "7" and int(words[3], 16) > 5_000


def done(told: dict[str, Any], seconds: float) -> tuple[int, int, int, int]:
    """Reads and writes that were told of, and their bytes."""
    read, write = told["read"], told["write"]
    return (
        round(read["iops"] * seconds),
        round(write["iops"] * seconds),
        round(read["bytes_per_s"] * seconds),
        round(write["bytes_per_s"] * seconds),
    )


@pytest.mark.slow
def test_a_program_is_told_of_the_work_of_two_servers(
    pool: str, image: str, mounting: Mounting
) -> None:
    with mounting(pool) as mount, opened(mount.file(image), os.O_RDWR | os.O_DIRECT) as file:
        read_and_write(file, 5, 5)
        command = [str(RBDFS), "top", "--once", "--json", f"--interval={INTERVAL_S}"]
        with subprocess.Popen([*command, str(mount.path)], stdout=subprocess.PIPE) as process:
            eventually(lambda: has_looked(process.pid), what="the first look")
            read_and_write(file, 7, 0)
            killed_server(mount)
            read_and_write(file, 2, 3)
            out, _ = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 0
        (told,) = json.loads(out)["mounts"]
        assert (told["mountpoint"], told["source"]) == (str(mount.path), pool)
        assert (told["state"], told["restarts"]) == ("serving", 1)
        assert "killed" in told["last_fault"]
        (line,) = told["images"]
        assert line["image"] == f"{pool}/{image}"
        for each in (told, line):
            assert done(each, told["seconds"]) == (9, 3, 9 * BLOCK, 3 * BLOCK)
            assert 0 < each["read"]["p50_ms"] <= each["read"]["p99_ms"]
            assert (each["in_flight"], each["errors_per_s"]) == (0, 0)


def test_counters_do_not_fall_while_servers_come_and_go(
    pool: str, image: str, mounting: Mounting
) -> None:
    with (
        mounting(pool) as mount,
        opened(mount.file(image), os.O_RDWR | os.O_DIRECT) as file,
        WatchedMounts(str(mount.path), 1.0) as mounts,
    ):
        mounts.loads()
        for generation, count in ((2, 4), (3, 11)):
            read_and_write(file, count, 0)
            killed_server(mount, generation)
            read_and_write(file, 1, count)
            mounts.ask(TIMEOUT_S)
            loads = mounts.loads()
            (told,) = facts(loads)["mounts"]
            assert done(told, loads[0].seconds)[:2] == (count + 1, count)
            assert told["restarts"] == generation - 1
        assert not mounts.over


def test_a_server_that_hangs(pool: str, image: str, mounting: Mounting) -> None:
    """Its meters are read all the same."""
    with mounting(pool) as mount:
        server = server_of(mount)
        assert server is not None
        with opened(mount.file(image), os.O_RDONLY | os.O_DIRECT) as file:
            read_and_write(file, 1, 0)
        os.kill(server, signal.SIGSTOP)
        try:
            ended = top("--json", str(mount.path))
        finally:
            os.kill(server, signal.SIGCONT)
        assert ended.returncode == 0
        (told,) = json.loads(ended.stdout)["mounts"]
        assert (told["state"], told["restarts"]) == ("no answer", None)
        assert (told["read"]["iops"], len(told["images"])) == (0, 1)


def test_a_person_is_told(pool: str, image: str, mounting: Mounting) -> None:
    odd = mounting.mountpoint("line\nbreak \x1b[31m")
    with mounting(pool, mountpoint=odd) as mount, mounting(pool) as other:
        with opened(mount.file(image), os.O_RDONLY | os.O_DIRECT) as file:
            read_and_write(file, 1, 0)
        ended = top("--once", str(mount.path), columns=120)
        assert (ended.returncode, ended.stderr) == (0, "")
        lines = ended.stdout.split("\n")
        assert r"line\nbreak \x1b[31m" in lines[0]
        assert "serving" in lines[0]
        assert lines[3].split()[:2] == ["IMAGE", "READ/s"]
        assert lines[4].startswith(image)
        # All that there are, with those of other tests.
        told = json.loads(top("--json", "--interval=0.1").stdout)["mounts"]
        assert {str(mount.path), str(other.path)} <= {each["mountpoint"] for each in told}


def test_a_mount_of_which_nothing_is_known(pool: str, mounting: Mounting) -> None:
    with mounting(pool, "-o", "datapath=python") as mount, mounting(pool) as other:
        ended = top("--json", str(mount.path))
        assert ended.returncode == 1
        assert "no keeper answers for it" in json.loads(ended.stdout)["error"]
        told = json.loads(top("--json", "--interval=0.1").stdout)["mounts"]
        found = {each["mountpoint"]: each for each in told}
        assert found[str(other.path)]["state"] == "serving"
        each = found[str(mount.path)]
        assert (each["state"], each["read"], each["in_flight"]) == ("unknown", None, None)
        assert "no keeper answers for it" in each["last_fault"]


def test_the_end_of_a_mount(pool: str, mounting: Mounting) -> None:
    with mounting(pool) as mount, WatchedMounts(str(mount.path), 1.0) as mounts:
        mount.unmount()
        mount.wait()
        while not mounts.over:
            mounts.wait(TIMEOUT_S)
        assert mounts.ends == [(f"{mount.path}: unmounted", False)]
    with (
        mounting(pool, exit_code=None) as mount,
        WatchedMounts(str(mount.path), 1.0) as mounts,
    ):
        kill_keeper_and_server(mount)
        while not mounts.over:
            mounts.wait(TIMEOUT_S)
        assert mounts.ends == [(f"{mount.path}: its keeper has gone", True)]
        with pytest.raises(UserError, match="its server has gone"):
            WatchedMounts(str(mount.path), 1.0).__enter__()
        mount.unmount()


def test_mounts_come_and_go(pool: str, mounting: Mounting) -> None:
    """A new one may have the number of one that has ended, and its place."""
    with mounting(pool), WatchedMounts(None, 1.0) as mounts:
        place = mounting.mountpoint()
        for count in (1, 2):
            with mounting(pool, mountpoint=place) as mount:
                mounts.ask(TIMEOUT_S)
                states = {each.mountpoint: each.condition.state for each in mounts.loads()}
                assert states[str(place)] == "serving"
                mount.unmount()
                mount.wait()
            # Those of other tests may end meanwhile, too.
            while mounts.ends.count((f"{place}: unmounted", False)) < count:
                mounts.wait(TIMEOUT_S)
            assert str(place) not in {each.mountpoint for each in mounts.loads()}
        assert not mounts.over


@pytest.mark.parametrize(
    ("arguments", "exit_code", "pattern"),
    [
        ((), 2, "no terminal"),
        (("--interval=0.01", "--once"), 2, "0.1 or more"),
        (("--once", "/"), 1, "not a mount of rbdfs"),
        (("--once", "/nowhere/at all"), 1, "No such file"),
        (("--once", "/", "/"), 2, "too many arguments"),
    ],
)
def test_what_it_does_not_do(arguments: tuple[str, ...], exit_code: int, pattern: str) -> None:
    ended = top(*arguments)
    assert (ended.returncode, ended.stdout) == (exit_code, "")
    assert pattern in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_without_rich(mount: Mount) -> None:
    """A program is told all the same."""
    program = "import sys; sys.modules['rich'] = None; from rbdfs.cli import main; sys.exit(main())"

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", program, "top", "--interval=0.1", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)

    ended = run("--once", str(mount.path))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "python3-rich" in ended.stderr
    assert json.loads(run("--json", str(mount.path)).stdout)["mounts"][0]["state"] == "serving"
