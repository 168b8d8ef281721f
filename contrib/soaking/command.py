"""The command line of contrib/soak."""

from __future__ import annotations

import argparse
import os
import random
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from benchmarks.arguments import add_bench

from soaking.bench import Bench, SoakError, bench
from soaking.episode import Episode
from soaking.faults import KINDS
from soaking.plan import Settings, draw
from soaking.report import Report, write_history
from soaking.shrinker import Shrinker, as_played
from soaking.stories import Stories
from soaking.users import Users

if TYPE_CHECKING:
    from collections.abc import Sequence

    from soaking.operations import Finding, History, Plan

PARTS = ("documents", "disks")
STORIES = Stories(random.Random(), 0, mapping=False).names
LAST_S = 15.0


def _kinds(text: str) -> tuple[str, ...]:
    kinds = tuple(kind for kind in text.split(",") if kind and kind != "none")
    unknown = set(kinds) - set(KINDS)
    if unknown:
        raise argparse.ArgumentTypeError(f"no kinds of faults: {', '.join(sorted(unknown))}")
    return kinds


def _parts(text: str) -> tuple[str, ...]:
    parts = tuple(text.split(","))
    if not parts or set(parts) - set(PARTS):
        raise argparse.ArgumentTypeError(f"not of {', '.join(PARTS)}: {text}")
    return parts


def _story(text: str) -> str:
    if text not in STORIES:
        raise argparse.ArgumentTypeError(f"not of {', '.join(STORIES)}: {text}")
    return text


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value <= 86400:
        raise argparse.ArgumentTypeError(f"not a positive number: {text}")
    return value


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"not a number from 1 to 100: {text}")
    return int(text)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="contrib/soak",
        description="Have users, drawn from a seed, at two mounts of a throw-away cluster, and "
        "faults at one of them; hold what they were answered to the promises of the manual. Each "
        "broken promise is printed, with the shortest plan that shows it.",
        epilog=f"Kinds of faults: {', '.join(KINDS)}. Exit code: 0, 1 for findings, 2 for a wrong "
        "command line, 3 where it could not be run.",
    )
    top.add_argument("--minutes", type=_positive, default=10.0, metavar="M", help="default: 10")
    top.add_argument("--seed", type=int, metavar="S", help="default: one from the clock")
    top.add_argument("--episode", type=int, metavar="N", help="this one of the seed's plans alone")
    top.add_argument("--faults", type=_kinds, default=KINDS, metavar="KIND,...", help="or none")
    top.add_argument("--users", type=_count, default=5, metavar="N", help="default: 5")
    top.add_argument(
        "--parts",
        type=_parts,
        default=PARTS,
        metavar="PART,...",
        help="documents (files of one user), disks (images of all); default: both",
    )
    top.add_argument(
        "--without",
        action="append",
        type=_story,
        default=[],
        metavar="STORY",
        help="of documents, as [in brackets] in a finding; repeatable",
    )
    top.add_argument(
        "--mount-option",
        action="append",
        default=[],
        metavar="OPT",
        help="an -o option of every mount; repeatable",
    )
    add_bench(top)
    top.add_argument(
        "--bound",
        type=_positive,
        default=60.0,
        metavar="SECONDS",
        help="an operation that takes longer is a finding; default: 60",
    )
    top.add_argument(
        "--patience",
        type=_positive,
        default=1.0,
        metavar="FACTOR",
        help="what has to be seen or answered in time may take so many times as long; default: 1",
    )
    top.add_argument(
        "--shrink",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="the time for shortening each finding; default: 60, 0 for not at all",
    )
    top.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="for logs and histories of findings; default: a new one in /tmp",
    )
    return top  # fmt: skip


class Soak:
    """One run on one bench."""

    def __init__(self, options: argparse.Namespace, bench: Bench, users: Users, report: Report):
        self._options, self._bench, self._users = options, bench, users
        self._report = report
        self._shortened: Counter[tuple[str, str]] = Counter()
        self._settings = Settings(
            options.faults, options.users, options.parts, tuple(options.without)
        )

    def run(self) -> None:
        """Play episodes until the time is over."""
        only = self._options.episode
        deadline = time.monotonic() + self._options.minutes * 60
        number = only or 1
        while number == (only or number) and time.monotonic() < deadline:
            self._soak(number, deadline)
            number += 1

    def _soak(self, number: int, deadline: float) -> None:
        seed = random.Random(f"{self._report.seed}/{number}").randrange(1 << 32)
        plan = draw(seed, self._settings)
        logs = self._report.logs / f"episode-{number}"
        findings, history = self._play(plan, logs)
        self._report.count(history)
        fresh = self._report.new(findings)
        self._report.progress(
            f"episode {number}: {len(history.events)} operations, "
            f"faults: {' '.join(window.kind for window in history.windows) or 'none'}, "
            f"findings: {len(findings)} ({len(fresh)} new)"
        )
        if not fresh:
            shutil.rmtree(logs, ignore_errors=True)
            return
        write_history(logs / "history", plan, history, findings)
        played = as_played(plan, history)
        for finding in fresh:
            self._report.tell(number, finding, logs)
            budget = self._budget(finding, deadline)
            if budget > 0:
                self._shorten(played, finding, budget)

    def _budget(self, finding: Finding, deadline: float) -> float:
        """Seconds for shortening a plan: less and less for what shows in one story after another.

        What is found at the end has some time beyond it.
        """
        kind = finding.check, finding.detail
        self._shortened[kind] += 1
        left, shrink = deadline - time.monotonic(), self._options.shrink
        return float(min(shrink / self._shortened[kind], max(left / 3, min(left + shrink, LAST_S))))

    def _shorten(self, plan: Plan, finding: Finding, budget_s: float) -> None:
        def play(shorter: Plan) -> tuple[list[Finding], History]:
            logs = self._report.logs / "shortening"
            shutil.rmtree(logs, ignore_errors=True)
            return self._play(shorter, logs)

        shrinker = Shrinker(plan, finding, play, budget_s)
        shrinker.shrink()
        self._report.tell_shortest(shrinker.plan, shrinker.shown)

    def _play(self, plan: Plan, logs: Path) -> tuple[list[Finding], History]:
        options = self._options
        episode = Episode(self._bench, self._users, plan, logs, options.bound, options.patience)
        findings = episode.play()
        return findings, episode.history


def run(options: argparse.Namespace) -> int:
    """Soak, and report; return the exit code."""
    seed = options.seed if options.seed is not None else int(time.time())
    words = [f"--seed={seed}", f"--users={options.users}"]
    words += [
        f"--faults={','.join(options.faults) or 'none'}",
        f"--parts={','.join(options.parts)}",
    ]
    words += [f"--without={story}" for story in options.without]
    words += [f"--mount-option={option}" for option in options.mount_option]
    logs = options.output or Path(tempfile.mkdtemp(prefix="rbdfs-soak-logs-"))
    logs.mkdir(parents=True, exist_ok=True)
    report = Report(seed, logs.resolve(), shlex.join(["contrib/soak", *words]))
    with (
        tempfile.TemporaryDirectory(prefix="rbdfs-soak-") as work,
        bench(options.cluster, Path(work), options.rbdfs.resolve(), options.mount_option) as made,
        Users() as users,
    ):
        made.make_pools()
        Soak(options, made, users, report).run()
    shutil.rmtree(report.logs / "shortening", ignore_errors=True)
    if not report.signatures and options.output is None:
        shutil.rmtree(report.logs, ignore_errors=True)
    print(report.summary(), flush=True)
    return int(bool(report.signatures))


def _terminate(signum: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + signum)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    # So that everything started is ended and removed.
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGINT, _terminate)
    os.environ.pop("CEPH_CONF", None)
    try:
        return run(options)
    except (SoakError, OSError) as exc:
        print(f"contrib/soak: {exc}", file=sys.stderr)
        return 3
