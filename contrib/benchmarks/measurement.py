"""One measurement: fio, cp or a listing against one contender that was just started."""

from __future__ import annotations

import filecmp
import json
import os
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.ceph import IMAGE_BYTES, LISTED, MIB, Bench
from benchmarks.process import BenchError, cpu_seconds, machine_seconds, run, tree

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.contenders import Contender, Served

# For what fio does before and after its run.
FIO_GRACE_S = 60.0
# A copy that takes more than this wrote the holes out, and would fill the machine's memory.
MOST_COPIED_BYTES = 2 << 30


@dataclass(frozen=True)
class Sample:
    """One measured value.

    Attributes:
        bound: the value is only a lower bound, because the measurement was ended early.
        machine_busy, osd_share: how busy all CPUs were, and how much of that was the OSDs'; 0 to 1.
        listed: how many images and snapshots a listing was of.
    """

    value: float
    bound: bool = False
    machine_busy: float = 0.0
    osd_share: float = 0.0
    listed: int | None = None


@dataclass(frozen=True)
class Failure:
    """A contender that could not be measured, and why, in one line."""

    reason: str


@dataclass(frozen=True)
class Fio:
    """A load for fio, with O_DIRECT unless *buffered*.

    Attributes:
        rw: fio's name for the direction and order.
        block: bytes of a request.
        images: so many at once, each with *depth* requests in flight.
        fsync: after each write.
        buffered: through the page cache, as cp and dd write.
        report: "iops", "mib" (a second) or "cpu" (microseconds a request in the serving process).
    """

    rw: str
    block: int
    depth: int
    images: int = 1
    fsync: bool = False
    buffered: bool = False
    report: str = "iops"

    def measure(self, bench: Bench, contender: Contender) -> Sample | None:
        if self.images > 1 and not contender.many:
            return None
        specs = bench.images[: self.images]
        with contender.serve(bench, bench.pool, specs) as served:
            if self.report == "cpu" and not served.pids:
                return None
            pids = tree(served.pids)
            before = cpu_seconds(pids), cpu_seconds(bench.osd_pids), machine_seconds()
            job = self._run(bench, served, specs)
            after = cpu_seconds(pids), cpu_seconds(bench.osd_pids), machine_seconds()
        busy_s, all_s = (then - now for then, now in zip(after[2], before[2], strict=True))
        requests = job["read"]["total_ios"] + job["write"]["total_ios"]
        if not requests:
            raise BenchError(f"fio finished no request against {contender.name}")
        if self.report == "cpu":
            value = (after[0] - before[0]) / requests * 1e6
        elif self.report == "mib":
            value = (job["read"]["bw_bytes"] + job["write"]["bw_bytes"]) / MIB
        else:
            value = job["read"]["iops"] + job["write"]["iops"]
        osd_share = (after[1] - before[1]) / busy_s if busy_s else 0.0
        return Sample(value, machine_busy=busy_s / all_s, osd_share=osd_share)

    def _run(self, bench: Bench, served: Served, specs: Sequence[str]) -> dict:
        command = ["fio", "--output-format=json", "--group_reporting", "--gtod_reduce=1"]
        for spec in specs:
            command += [f"--name={spec}", *self._target(bench, served, spec)]
            command += [f"--rw={self.rw}", f"--bs={self.block}", f"--iodepth={self.depth}"]
            command += [f"--size={IMAGE_BYTES}", "--time_based"]
            command += [f"--runtime={bench.seconds * 1000:.0f}ms"]
            command += ["--randrepeat=0", "--norandommap", f"--fsync={int(self.fsync)}"]
            # The CPU time is counted from the start, so the requests must be as well.
            if self.report != "cpu":
                command += ["--ramp_time=500ms"]
        output = run(command, bench.seconds + FIO_GRACE_S)
        (job,) = json.loads(output[output.index("{") :])["jobs"]
        if job["error"]:
            raise BenchError(f"fio: {os.strerror(job['error'])}")
        return job

    def _target(self, bench: Bench, served: Served, spec: str) -> list[str]:
        if served.files is None:
            # The engine comes before the options that only it knows.
            names = [f"--pool={bench.pool}", f"--rbdname={spec}"]
            return ["--ioengine=rbd", "--clientname=admin", *names]
        engine = "psync" if self.fsync or self.buffered else "libaio"
        file = [f"--filename={served.files[spec]}", "--allow_file_create=0", "--fallocate=none"]
        return [f"--ioengine={engine}", f"--direct={int(not self.buffered)}", *file]


@dataclass(frozen=True)
class Copy:
    """The seconds that cp takes for a snapshot, cold in the page cache, or once more.

    The copy is compared with what was imported; a wrong one is a failure.

    Attributes:
        kind: "full", "plain" or "thin", as Bench has snapshots.
    """

    kind: str = "full"
    again: bool = False

    def measure(self, bench: Bench, contender: Contender) -> Sample:
        spec, data = getattr(bench, f"{self.kind}_snapshot")
        copy = bench.copies / "copy.raw"
        with contender.serve(bench, bench.pool, [spec]) as served:
            if served.files is None:
                command = ["rbd", "-c", bench.conf, "export", "--no-progress"]
                command += [f"{bench.pool}/{spec}", copy]
            else:
                command = ["cp", "--sparse=auto", served.files[spec], copy]
            try:
                if self.again:
                    self._timed(bench, command, copy)
                    copy.unlink()
                sample = self._timed(bench, command, copy)
                if not sample.bound and not _same(copy, data, thin=self.kind == "thin"):
                    raise BenchError(f"{contender.name}: the copy of {spec} is wrong")
            finally:
                copy.unlink(missing_ok=True)
        return sample

    def _timed(self, bench: Bench, command: Sequence[object], copy: Path) -> Sample:
        """How long *command* takes, or at least takes."""
        start = time.monotonic()
        with subprocess.Popen([str(part) for part in command]) as process:
            try:
                while process.poll() is None:
                    seconds = time.monotonic() - start
                    written = copy.stat().st_blocks * 512 if copy.exists() else 0
                    if written > MOST_COPIED_BYTES or seconds > bench.limit_s:
                        return Sample(seconds, bound=True)
                    # Short beside the shortest of these.
                    time.sleep(0.002)
                seconds = time.monotonic() - start
            finally:
                if process.poll() is None:
                    process.kill()
        if process.returncode:
            raise BenchError(f"{command[0]} ended with exit code {process.returncode}")
        return Sample(seconds)


def _same(copy: Path, data: Path, *, thin: bool) -> bool:
    if not thin:
        return filecmp.cmp(copy, data, shallow=False)
    # 100 GiB of zeros need not be read: what is data in either is compared.
    if copy.stat().st_size != data.stat().st_size:
        return False
    with copy.open("rb") as left, data.open("rb") as right:
        for off, end in [*_extents(left.fileno()), *_extents(right.fileno())]:
            for place in range(off, end, MIB):
                size = min(MIB, end - place)
                pair = (os.pread(file.fileno(), size, place) for file in (left, right))
                if next(pair) != next(pair):
                    return False
    return True


def _extents(fd: int) -> list[tuple[int, int]]:
    """(start, end) of what is not a hole."""
    found, off, size = [], 0, os.fstat(fd).st_size
    while off < size:
        try:
            start = os.lseek(fd, off, os.SEEK_DATA)
        except OSError:
            # ENXIO: only a hole is left.
            break
        off = os.lseek(fd, start, os.SEEK_HOLE)
        found.append((start, off))
    return found


@dataclass(frozen=True)
class Listing:
    """The seconds of a cold listing with sizes and times; None where there is none.

    Names alone do not count: `ls` prints question marks beside a file that stat(2) does not find.
    """

    def measure(self, bench: Bench, contender: Contender) -> Sample | None:
        expected = min(contender.lists, LISTED)
        if not expected:
            return None
        pool = bench.listing_pool
        with contender.serve(bench, pool, []) as served:
            command = ["rbd", "-c", bench.conf, "ls", "-l", pool]
            if served.directory is not None:
                command = ["ls", "-l", served.directory]
            start = time.monotonic()
            # ls ends with 1 where it could not find out about a file.
            successes = (0,) if expected == LISTED else (1,)
            lines = run(command, bench.limit_s, successes=successes).splitlines()
            seconds = time.monotonic() - start
        # The first is a heading.
        listed = sum(not line.startswith("?") for line in lines[1:])
        if listed != expected:
            raise BenchError(f"{contender.name} lists {listed} images and snapshots")
        return Sample(seconds, listed=listed)
