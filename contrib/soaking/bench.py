"""What is soaked: a throw-away cluster with two pools, mounts of rbdfs, and the tools beside."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soaking.users import children

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

CHECKOUT = Path(__file__).resolve().parents[2]
COMMAND_S = 60.0
START_S = 60.0
POLL_S = 0.05
POOLS = ("a", "b")
# Everything may be done, unless a run says otherwise.
MANAGED = "manage=snapshots"


class SoakError(Exception):
    """Something a user is told in one line: no finding, the soak itself cannot go on."""


def run(command: Sequence[object], *, data: bytes = b"", timeout_s: float = COMMAND_S) -> str:
    """The output of a command; SoakError where it fails."""
    argv = [str(part) for part in command]
    try:
        done = subprocess.run(argv, input=data, capture_output=True, timeout=timeout_s)
    except FileNotFoundError:
        raise SoakError(f"{argv[0]} is not installed (contrib/setup installs it)") from None
    except subprocess.TimeoutExpired:
        raise SoakError(f"{' '.join(argv)}: no end within {timeout_s:.0f} s") from None
    if done.returncode:
        complaint = os.fsdecode(done.stderr).strip().splitlines() or ["nothing"]
        raise SoakError(f"{' '.join(argv)}: exit code {done.returncode}: {complaint[-1]}")
    return os.fsdecode(done.stdout)


def eventually(done: Callable[[], bool], seconds: float) -> bool:
    """Whether *done* came true within the time."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


@dataclass
class Bench:
    """The cluster, and the directory in which everything else is.

    Attributes:
        pools: the pools' true names by ``a`` and ``b``.
        options: -o options of every mount.
    """

    cluster: Path
    work: Path
    rbdfs: Path
    options: tuple[str, ...] = ()
    pools: dict[str, str] = field(default_factory=dict)

    @property
    def conf(self) -> Path:
        return self.cluster / "ceph.conf"

    def ceph(self, *args: str) -> str:
        return run(["ceph", "-c", self.conf, *args])

    def rbd(self, *args: str, data: bytes = b"") -> str:
        return run(["rbd", "-c", self.conf, *args], data=data)

    def spec(self, path: str) -> str:
        pool, _, name = path.partition("/")
        return f"{self.pools[pool]}/{name}"

    def daemon_pid(self, daemon: str) -> int:
        return int((self.cluster / f"{daemon}.pid").read_text())

    def watchers(self, path: str) -> list[str]:
        status = json.loads(self.rbd("status", "--format=json", self.spec(path)))
        return [watcher["address"] for watcher in status["watchers"]]

    def blocklist(self) -> set[str]:
        return set(json.loads(self.ceph("osd", "dump", "--format=json"))["blocklist"])

    def make_pools(self) -> None:
        unique = uuid.uuid4().hex[:6]
        for pool in POOLS:
            name = f"soak-{unique}-{pool}"
            self.ceph("osd", "pool", "create", name)
            self.pools[pool] = name
            self.rbd("pool", "init", name)

    def remove_pools(self) -> None:
        for name in self.pools.values():
            self.ceph("osd", "pool", "rm", name, name, "--yes-i-really-really-mean-it")
        self.pools.clear()

    def contents(self, pool: str) -> list[str]:
        """The paths of all images and snapshots of a pool."""
        listed = json.loads(self.rbd("ls", "-l", "--format=json", self.pools[pool]))
        names = (
            each["image"] + ("@" * ("snapshot" in each)) + each.get("snapshot", "")
            for each in listed
        )
        return [f"{pool}/{name}" for name in names]


@contextlib.contextmanager
def bench(cluster: Path | None, work: Path, rbdfs: Path, options: Sequence[str]) -> Iterator[Bench]:
    """A cluster with pools of its own: the one in a directory, or one for now."""
    script, directory = CHECKOUT / "contrib" / "cluster", cluster or work / "cluster"
    if cluster is None:
        run([script, "start", directory])
    elif not (directory / "ceph.conf").exists():
        raise SoakError(f"{directory} is no directory of contrib/cluster")
    try:
        made = Bench(directory.resolve(), work, rbdfs, tuple(options))
        try:
            yield made
        finally:
            if cluster is not None:
                made.remove_pools()
    finally:
        if cluster is None:
            run([script, "stop", directory])


class Mount:
    """One mount point, and who serves it."""

    def __init__(self, bench: Bench, number: int, log: Path, options: Sequence[str]) -> None:
        self._bench = bench
        self.number = number
        self.path = bench.work / f"mnt{number}"
        self.path.mkdir(exist_ok=True)
        self.log = log
        given = (*bench.options, *options)
        managed = any(option.startswith("manage") for option in given)
        self._options = (*(() if managed else (MANAGED,)), "partitions", *given)
        self.keepers: list[int] = []
        self.devices: list[str] = []

    def start(self) -> None:
        """Mount; raise SoakError where that fails."""
        argv = [str(self._bench.rbdfs), "-c", str(self._bench.conf), "--all-pools"]
        argv += [part for option in self._options for part in ("-o", option)]
        run([*argv, "--log-file", self.log, self.path], timeout_s=START_S)
        device = self.device()
        assert device is not None
        self.devices.append(device)
        with contextlib.suppress(SoakError):
            self.keepers.append(int(self.status()["keeper"]))

    def device(self) -> str | None:
        """MAJOR:MINOR of what is mounted on top, None for nothing."""
        found = None
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
            for line in mounts:
                fields = line.split(" ")
                if fields[4] == str(self.path):
                    found = fields[2]
        return found

    def status(self) -> dict[str, Any]:
        answer = run([self._bench.rbdfs, "status", self.path])
        status: dict[str, Any] = json.loads(answer)
        return status

    def restart(self) -> None:
        run([self._bench.rbdfs, "restart", self.path])

    @property
    def keeper(self) -> int | None:
        return self.keepers[-1] if self.keepers else None

    def server(self) -> int | None:
        """The process that serves, or starts to."""
        return next(iter(children(self.keeper)), None) if self.keeper else None

    def ready(self) -> bool:
        """Whether the mount point answers, and who serves it says so."""
        with contextlib.suppress(SoakError):
            return bool(self.status()["state"] == "serving")
        return False

    def umount(self, *, lazily: bool = False) -> None:
        run(["umount", *(["-l"] if lazily else []), self.path])

    def abort(self) -> None:
        """Free everybody who waits for an answer, in all mounts that were made here."""
        for device in self.devices:
            abort = Path(f"/sys/fs/fuse/connections/{device.split(':')[1]}/abort")
            with contextlib.suppress(OSError):
                abort.write_text("1")

    def processes(self) -> list[int]:
        """All of rbdfs that has to do with this mount point and is still there."""
        found = []
        for keeper in self.keepers:
            for pid in [keeper, *children(keeper)]:
                with contextlib.suppress(OSError):
                    if b"rbdfs" in Path(f"/proc/{pid}/cmdline").read_bytes():
                        found.append(pid)
        return found

    def clear(self) -> None:
        """Leave nothing of it, whatever state it is in."""
        while self.device() is not None:
            if self.device() in self.devices:
                self.abort()
            subprocess.run(["umount", "-l", str(self.path)], timeout=COMMAND_S, check=False)
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
