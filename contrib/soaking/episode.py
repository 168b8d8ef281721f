"""Plays one plan: mounts, users and faults, and a look at what is left at the end."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from soaking import cleaning
from soaking.bench import POOLS, Mount, SoakError, eventually, run
from soaking.checker import check, check_log
from soaking.content import BLOCK
from soaking.faults import Injector
from soaking.operations import Finding, History
from soaking.plan import DISK_BYTES, DISKS, OBJECT_SIZE
from soaking.system_calls import export
from soaking.users import stacks

if TYPE_CHECKING:
    from pathlib import Path

    from soaking.bench import Bench
    from soaking.operations import Plan
    from soaking.users import Users

# All end within these: the machine may be busy.
END_S = 40.0
TABLE = "label: gpt\nstart={first}, size={size}, name=p\n"


class Episode:
    """One plan on one bench.

    *bound_s* is what no operation may take longer than; *patience* is the checker's.
    """

    def __init__(
        self, bench: Bench, users: Users, plan: Plan, logs: Path, bound_s: float, patience: float
    ) -> None:
        self._bench, self._users, self._plan = bench, users, plan
        self._bound_s, self._patience = bound_s, patience
        self._gate = bench.work / "gate"
        self._history = History()
        logs.mkdir(parents=True, exist_ok=True)
        self._mounts = [
            Mount(bench, 0, logs / "rbdfs-0.log", plan.options),
            Mount(bench, 1, logs / "rbdfs-1.log", ()),
        ]

    @property
    def history(self) -> History:
        return self._history

    def play(self) -> list[Finding]:
        """Play the plan, leave nothing of it, and return what was found."""
        self._gate.touch()
        try:
            self._make_disks()
            wanted = {script.mount for script in self._plan.scripts} | {0}
            for mount in self._mounts:
                if mount.number in wanted:
                    mount.start()
            lost = self._act()
            if not self._users.release() and not lost:
                self._look_at_the_end()
            self._unmount()
            self._export_all()
        finally:
            for mount in self._mounts:
                mount.clear()
            self._clean()
        for mount in self._mounts:
            if mount.log.exists():
                self._history.findings += check_log(mount.log.read_text(errors="replace"))
        return check(self._history, DISKS, self._patience)

    def _make_disks(self) -> None:
        for disk in DISKS:
            spec = self._bench.spec(disk.path)
            command = ["create", f"--size={DISK_BYTES}B", f"--object-size={OBJECT_SIZE}", spec]
            if disk.part:
                raw = self._bench.work / "partitioned.raw"
                with raw.open("wb") as file:
                    file.truncate(DISK_BYTES)
                sectors = BLOCK // 512
                table = TABLE.format(first=disk.first * sectors, size=disk.blocks * sectors)
                run(["sfdisk", "-q", raw], data=table.encode())
                size = f"--object-size={OBJECT_SIZE}"
                command = ["import", "--no-progress", size, str(raw), spec]
            self._bench.rbd(*command)

    def _act(self) -> bool:
        """Have the users and the faults at each other; return whether the mount was lost."""
        disks = [disk.path for disk in DISKS]
        injector = Injector(self._bench, self._mounts[0], self._gate, disks, self._plan.faults)
        deadline = time.monotonic() + self._plan.seconds
        for script in self._plan.scripts:
            self._users.play(
                script,
                mount=self._mounts[script.mount].path,
                scratch=self._bench.work,
                gate=self._gate,
                conf=self._bench.conf,
                pools=self._bench.pools,
                deadline=deadline,
            )
        injector.start()
        try:
            events, findings = self._users.events(self._bound_s)
        finally:
            injector.end()
        self._history.events += events
        self._history.windows += injector.windows
        self._history.findings += findings + injector.findings
        if any(finding.check == "hang" for finding in findings):
            self._free_the_hanging()
        return injector.lost

    def _free_the_hanging(self) -> None:
        pids = [pid for mount in self._mounts for pid in mount.processes()]
        self._history.findings[-1:] = [
            Finding(
                last.check, f"{last.message}\nrbdfs:\n{stacks(pids)}", last.story, last.detail,
                last.user, last.index,
            )
            for last in self._history.findings[-1:]
        ]  # fmt: skip
        for mount in self._mounts:
            mount.abort()

    def _find(self, check: str, message: str, detail: str = "") -> None:
        self._history.findings.append(Finding(check, message, "the end", detail))

    def _look_at_the_end(self) -> None:
        """All users have closed everything: so has rbdfs, and nothing was done twice."""
        for mount in self._mounts:
            if mount.keeper is None or mount.device() is None:
                continue
            try:
                if not eventually(lambda m=mount: m.status()["open_files"] == 0, END_S):  # type: ignore[misc]
                    files = mount.status()["files"]
                    self._find("left open", f"mount {mount.number}: {files}", "open files")
                unwanted = mount.status()["requests"]["unwanted"]
            except SoakError as exc:
                self._find("status", str(exc))
                continue
            if unwanted:
                message = f"mount {mount.number}: the kernel did not want {unwanted} answers"
                self._find("done twice", message, "unwanted")
        for disk in DISKS:
            if not eventually(lambda d=disk: not self._watched(d.path), END_S):  # type: ignore[misc]
                left = self._watched(disk.path)
                self._find("left open", f"{disk.path} is watched by {left}", "watchers")

    def _watched(self, path: str) -> set[str]:
        """Who watches an image, but for clients that are dead and fenced."""
        watchers = set(self._bench.watchers(path))
        if watchers and not any(window.kind == "crash" for window in self._history.windows):
            return watchers - self._bench.blocklist()
        return set()

    def _unmount(self) -> None:
        for mount in self._mounts:
            if mount.device() is None:
                continue
            try:
                mount.umount()
            except SoakError as exc:
                self._find("umount", str(exc), "refused")
                continue
            if not eventually(lambda m=mount: not m.processes(), END_S):  # type: ignore[misc]
                left = stacks(mount.processes())
                self._find("left running", f"mount {mount.number}:\n{left}", "processes")

    def _export_all(self) -> None:
        """What the cluster holds of everything."""
        paths = [path for pool in POOLS for path in self._bench.contents(pool)]

        def one(path: str) -> bytes | None:
            try:
                return export(self._bench.conf, self._bench.spec(path))
            except (OSError, subprocess.TimeoutExpired):
                return None

        with ThreadPoolExecutor(2) as threads:
            self._history.exports = dict(zip(paths, threads.map(one, paths), strict=True))

    def _clean(self) -> None:
        """Remove all images, with their snapshots and clones, from the pools and their trash.

        What a client that is dead still watches, goes with its pool.
        """
        command = [sys.executable, "-P", cleaning.__file__, self._bench.conf]
        try:
            run([*command, *self._bench.pools.values()])
        except SoakError as exc:
            print(f"contrib/soak: the pools are made anew: {exc}", file=sys.stderr)
            self._bench.remove_pools()
            self._bench.make_pools()
