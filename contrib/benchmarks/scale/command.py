"""The command line of contrib/bench scale."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import ceph
from benchmarks.arguments import add_program, count
from benchmarks.process import run
from benchmarks.scale.growth import SETTLED
from benchmarks.scale.scenes import SCENES, Played, Stage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.scale.vitals import Process, Row


# 5 KiB for each of 800 repetitions, of some forty requests each.
TOLERANCE_MIB = 4.0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="contrib/bench scale",
        description="Mount pools with much in them, and print a table in Markdown of what that "
        "takes: memory, CPU time, descriptors and threads of the server and its keeper, and for "
        "how long the server's main thread let others wait.",
        epilog="Exit code: 0; 1 when something grew that should not, or could not be measured; "
        "2 for a wrong command line.",
    )
    top.add_argument(
        "scenes", nargs="*", metavar="SCENE", help=f"of {', '.join(SCENES)}; default: all"
    )
    for name, default, text in (
        ("images", 10_000, "in the pool of scene images"),
        ("snapshots", 500, "of as many images each, in scene snapshots"),
        ("open", 100, "images of 1 TiB, in scene open"),
        ("repetitions", 1000, "in scene repeat"),
    ):
        top.add_argument(
            f"--{name}",
            type=count,
            default=default,
            metavar="N",
            help=f"{text}; default: {default}",
        )
    top.add_argument(
        "--idle", type=float, default=60.0, metavar="SECONDS", help="in scene open; default: 60"
    )
    top.add_argument(
        "--tolerance",
        type=float,
        default=TOLERANCE_MIB,
        metavar="MIB",
        help="that a process may grow by from a fifth of the repetitions to their end; "
        f"default: {TOLERANCE_MIB:g}",
    )
    add_program(top)
    top.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    return top


def main(arguments: Sequence[str]) -> int:
    """Play the scenes and report; return the exit code."""
    top = parser()
    options = top.parse_args(arguments)
    if unknown := set(options.scenes) - SCENES.keys():
        top.error(f"no scene: {', '.join(sorted(unknown))}")
    names = [name for name in SCENES if not options.scenes or name in options.scenes]
    played = []
    with tempfile.TemporaryDirectory(prefix="rbdfs-bench-") as scratch:
        work = Path(scratch)
        with ceph.cluster(options.cluster, work) as directory:
            stage = _stage(options, directory, work)
            for name in names:
                print(f"{time.strftime('%T')} {name}", file=sys.stderr, flush=True)
                played.append(SCENES[name](stage))
            setting = _setting(directory)
    print(markdown(played, setting), end="")
    if options.json:
        options.json.write_text(json.dumps(document(played, setting), indent=1) + "\n")
    return int(any(growth.grows for each in played for growth in each.growths))


def _stage(options: argparse.Namespace, directory: Path, work: Path) -> Stage:
    return Stage(
        conf=ceph.configuration(directory, work),
        work=work,
        program=options.rbdfs,
        options=[options.options] if options.options else [],
        images=options.images,
        snapshots=options.snapshots,
        open_files=options.open,
        idle_s=options.idle,
        repetitions=options.repetitions,
        tolerance_mib=options.tolerance,
    )


def _setting(directory: Path) -> dict[str, Any]:
    state = json.loads((directory / "cluster.json").read_text())
    return {
        "CPUs": os.cpu_count(),
        "Linux": platform.release(),
        "Ceph": run(["rbd", "--version"]).split()[2],
        "objectstore": state["objectstore"],
    }


# The report.


def document(played: Sequence[Played], setting: dict[str, Any]) -> dict[str, Any]:
    """All figures, for --json."""
    return {
        "setting": setting,
        "scenes": [
            {
                "name": each.name,
                "about": each.about,
                "rows": [row.json() for row in each.rows],
                "growths": [growth.json() for growth in each.growths],
                "samples": [[asdict(process) for process in pair] for pair in each.samples],
            }
            for each in played
        ],
    }


HEAD = ("scene", "what", "s", "server MiB", "keeper MiB", "CPU s", "lag ms", "fds", "threads")


def markdown(played: Sequence[Played], setting: dict[str, Any]) -> str:
    """The table, what the scenes were of, and what grew."""
    lines = [HEAD, ("---", "---", *("---:" for _ in HEAD[2:]))]
    lines += [_cells(row) for each in played for row in each.rows]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    about = "; ".join(f"{key} {value}" for key, value in setting.items())
    notes = [
        "before -> after; MiB: resident; CPU: of server and keeper; lag: no turn of the server's "
        "main thread took longer; fds and threads: the server's.",
        *(f"{each.name}: {each.about}." for each in played),
        *(_verdict(each) for each in played if each.growths),
    ]
    return f"{text}\n\nMeasured with {about}.\n\n" + "\n".join(f"* {note}" for note in notes) + "\n"


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.scene,
        row.what,
        f"{row.seconds:,.1f}",
        _change(row.server, "rss_mib", ".0f"),
        _change(row.keeper, "rss_mib", ".0f"),
        f"{row.cpu_s:.1f}",
        f"{row.lag_ms:,.0f}",
        _change(row.server, "fds", "d"),
        _change(row.server, "threads", "d"),
    )


def _change(pair: tuple[Process, Process], figure: str, form: str) -> str:
    before, after = (format(getattr(process, figure), form) for process in pair)
    return f"{before} -> {after}"


def _verdict(played: Played) -> str:
    growing = [str(growth) for growth in played.growths if growth.grows]
    figures = ", ".join(growing or [str(growth) for growth in played.growths])
    word = "GROWS" if growing else "does not grow"
    since = f"from {SETTLED:.0%} of the repetitions to their end"
    return (
        f"{played.name}: {word} {since} (tolerance {played.growths[0].tolerance:g} MiB): {figures}."
    )
