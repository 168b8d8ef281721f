"""The command line of contrib/bench."""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from benchmarks import ceph, report
from benchmarks.arguments import add_program, count
from benchmarks.contenders import Librbd, QemuExport, Rbdfs, RbdFuse
from benchmarks.measurement import Failure
from benchmarks.process import BenchError
from benchmarks.rows import GROUPS, ROWS
from benchmarks.scale import command as scale

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.contenders import Contender
    from benchmarks.measurement import Sample
    from benchmarks.rows import Row

NAMES = ("rbdfs", "qemu", "rbd-fuse", "librbd")
COPIES = Path("/dev/shm")


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value <= 86400:
        raise argparse.ArgumentTypeError(f"not a number of seconds: {text}")
    return value


def _group(text: str) -> str:
    # Not as choices, which argparse wants nothing at all to be one of.
    if text not in GROUPS:
        raise argparse.ArgumentTypeError(f"no group of rows: {text}")
    return text


def _names(group: str) -> list[str]:
    return [row.name for row in ROWS if row.group == group]


def parser() -> argparse.ArgumentParser:
    rows = {row.name: row for row in ROWS}
    top = argparse.ArgumentParser(
        prog="contrib/bench",
        description="Measure rbdfs, qemu-storage-daemon's FUSE export, rbd-fuse and librbd itself "
        "in turn on one cluster, and print a table in Markdown: the medians of the rounds, and "
        "the speed of rbdfs as a multiple of each peer's.",
        epilog="Groups of rows: "
        + "; ".join(f"{group}: {', '.join(_names(group))}" for group in GROUPS)
        + ". Exit code: 0, 1 when something could not be measured, 2 for a wrong command line. "
        "contrib/bench scale --help: memory, CPU time and lag of mounts with much in them.",
    )
    top.add_argument(
        "groups", nargs="*", type=_group, metavar="GROUP", help="these rows; default: all"
    )
    top.add_argument(
        "--only", action="append", choices=rows, metavar="ROW", help="this row too; repeatable"
    )
    top.add_argument(
        "--contender", action="append", choices=NAMES, help="this contender; repeatable"
    )
    top.add_argument("--rounds", type=count, default=5, help="default: 5")
    top.add_argument("--seconds", type=_positive, default=5.0, help="of a fio run; default: 5")
    top.add_argument(
        "--limit",
        type=_positive,
        default=120.0,
        metavar="SECONDS",
        help="a cp that takes longer is ended, and counts as longer; default: 120",
    )
    add_program(top)
    top.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    top.add_argument("--svg", type=Path, metavar="FILE", help="draw the ratios; needs matplotlib")
    return top


def measure(
    bench: ceph.Bench, rows: Sequence[Row], contenders: Sequence[Contender], rounds: int
) -> list[report.Result]:
    """All rounds of all rows; in each round every contender has its turn, in changing order."""
    results = []
    for row in rows:
        done: list[report.Round] = []
        for turn in range(rounds):
            first = turn % len(contenders)
            samples: report.Round = {}
            for contender in (*contenders[first:], *contenders[:first]):
                sample = _measure(row, bench, contender)
                samples[contender.name] = sample
                text = "-"
                if isinstance(sample, Failure):
                    text = sample.reason
                elif sample is not None:
                    text = f"{report.number(sample.value)} {row.unit}"
                _progress(f"{row.name} {turn + 1}/{rounds} {contender.name}: {text}")
            done.append(samples)
        results.append(report.Result(row, done))
    return results


def _measure(row: Row, bench: ceph.Bench, contender: Contender) -> Sample | Failure | None:
    try:
        return row.measurement.measure(bench, contender)
    except (BenchError, OSError) as exc:
        # The rows measured so far, and the others, are worth their time.
        return Failure(str(exc))


def _progress(text: str) -> None:
    print(f"{time.strftime('%T')} {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _bench(options: argparse.Namespace, work: Path) -> Iterator[tuple[ceph.Bench, str]]:
    """The bench, and what the cluster's OSDs keep their objects in."""
    copies = work
    with contextlib.ExitStack() as stack:
        if COPIES.is_dir():
            # A disk would be measured otherwise.
            scratch = tempfile.TemporaryDirectory(prefix="rbdfs-bench-", dir=COPIES)
            copies = Path(stack.enter_context(scratch))
        directory = stack.enter_context(ceph.cluster(options.cluster, work))
        conf = ceph.configuration(directory, work)
        pool = stack.enter_context(ceph.scratch_pool(conf))
        state = json.loads((directory / "cluster.json").read_text())
        pids = ceph.osd_pids(directory)
        yield (
            ceph.Bench(conf, pool, work, copies, pids, options.seconds, options.limit),
            state["objectstore"],
        )


def run(options: argparse.Namespace) -> int:
    """Measure and report; return the exit code, 1 where something could not be measured."""
    if options.svg:
        report.check_svg()
    chosen = {*(options.only or []), *(name for each in options.groups for name in _names(each))}
    rows = [row for row in ROWS if not chosen or row.name in chosen]
    known: list[Contender] = [
        Rbdfs(options.rbdfs, options.options),
        QemuExport(),
        RbdFuse(),
        Librbd(),
    ]
    contenders = [each for each in known if not options.contender or each.name in options.contender]
    names = [each.name for each in contenders]
    with (
        tempfile.TemporaryDirectory(prefix="rbdfs-bench-") as scratch,
        _bench(options, Path(scratch)) as (bench, objectstore),
    ):
        setting = report.setting(options.rounds, options.seconds, objectstore)
        results = measure(bench, rows, contenders, options.rounds)
    print(report.markdown(results, names, setting), end="")
    if options.json:
        report.write_json(options.json, results, names, setting)
    if options.svg:
        report.write_svg(options.svg, results, names)
    return int(any(result.failures(name) for result in results for name in names))


def _terminate(signum: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + signum)


def main() -> int:
    # So that everything started is ended and removed.
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGINT, _terminate)
    try:
        if sys.argv[1:2] == ["scale"]:
            return scale.main(sys.argv[2:])
        return run(parser().parse_args())
    except (BenchError, OSError) as exc:
        print(f"contrib/bench: {exc}", file=sys.stderr)
        return 1
