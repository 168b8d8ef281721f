"""The results: ratios, a table, JSON, a chart."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.ceph import LISTED
from benchmarks.measurement import Failure, Sample
from benchmarks.process import BenchError, run

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.rows import Row

SUBJECT = "rbdfs"
# A round's samples of one row by contender; None where one cannot do it.
Round = dict[str, Sample | Failure | None]
# From here on the machine has nothing left, and it is the OSD's part that decides.
FULL = 0.9
DOMINATES = 0.5
TICKS = [digit * 10.0**power for power in range(-3, 4) for digit in (1, 2, 5)]

NOTES = {
    "ratios": "x: how many times as fast rbdfs is as that peer, the median of the rounds' ratios; "
    "above 1 rbdfs is faster (for CPU: takes less). librbd is the limit: fio's rbd engine, "
    "`rbd export`, `rbd ls -l`.",
    "cache": "All run with librbd's cache off (`rbd_cache=false`; QEMU: cache.direct=on), each "
    "freshly started for every measurement. 8 images: one qemu-storage-daemon for each.",
    "qemu": "QEMU 7.2's FUSE export corrupts data above queue depth 1 with O_DIRECT (it polls "
    "before it has copied the write buffer; fixed in 2025), so its figures there are generous.",
    "rbd-fuse": "rbd-fuse shows no snapshots (the image is copied instead) and at most 128 images, "
    "and of files that are used at once it does not find some: it is measured with one.",
    "bound": "`>`: ended early, because it took too long or wrote the holes out as zeros.",
}


@dataclass(frozen=True)
class Result:
    """All rounds of one row."""

    row: Row
    rounds: list[Round]

    def samples(self, contender: str) -> list[Sample]:
        found = (each.get(contender) for each in self.rounds)
        return [sample for sample in found if isinstance(sample, Sample)]

    def failures(self, contender: str) -> list[str]:
        found = (each.get(contender) for each in self.rounds)
        return [failure.reason for failure in found if isinstance(failure, Failure)]

    def median(self, contender: str) -> float | None:
        samples = self.samples(contender)
        return statistics.median(sample.value for sample in samples) if samples else None

    def bound(self, contender: str) -> bool:
        return any(sample.bound for sample in self.samples(contender))

    def ratio(self, peer: str) -> float | None:
        """How many times as fast as *peer* rbdfs is: the median of the rounds' own ratios.

        None where a round has no value of either, or both were ended early.
        """
        if self.bound(SUBJECT) and self.bound(peer):
            return None
        ratios = []
        for each in self.rounds:
            ours, theirs = each.get(SUBJECT), each.get(peer)
            if not isinstance(ours, Sample) or not isinstance(theirs, Sample):
                return None
            if not ours.value or not theirs.value:
                return None
            speed = ours.value / theirs.value
            ratios.append(speed if self.row.more_is_better else 1 / speed)
        return statistics.median(ratios) if ratios else None


def number(value: float) -> str:
    """Three significant digits, and whole numbers above."""
    digits = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:,.{digits}f}"


def _cell(result: Result, contender: str) -> str:
    if result.failures(contender):
        return "failed"
    value = result.median(contender)
    if value is None:
        return "-"
    return ("> " if result.bound(contender) else "") + number(value)


def _ratio_cell(result: Result, peer: str) -> str:
    ratio = result.ratio(peer)
    if ratio is None:
        return "-"
    # A time that was ended early is longer still.
    sign = "> " if result.bound(peer) else "< " if result.bound(SUBJECT) else ""
    target = result.row.targets.get(peer)
    return f"{sign}{ratio:.2f}" + (f" ({target:g})" if target else "")


def markdown(results: list[Result], contenders: list[str], setting: dict[str, Any]) -> str:
    """The table, the machine it was measured on, and what has to be known to read it."""
    peers = [name for name in contenders if name != SUBJECT] if SUBJECT in contenders else []
    head = ["work", "unit", *contenders, *(f"x {peer} (target)" for peer in peers)]
    lines = [head, ["---", "---", *("---:" for _ in head[2:])]]
    for result in results:
        cells = [_cell(result, name) for name in contenders]
        ratios = [_ratio_cell(result, peer) for peer in peers]
        lines.append([result.row.title, result.row.unit, *cells, *ratios])
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    about = "; ".join(f"{key} {value}" for key, value in setting.items())
    notes = [NOTES["ratios"], NOTES["cache"]]
    notes += [NOTES[name] for name in contenders if name in NOTES]
    if any(result.bound(name) for result in results for name in contenders):
        notes.append(NOTES["bound"])
    notes += [*_beside(results), *_listed(results, contenders)]
    for name in contenders:
        rows_of: dict[str, list[str]] = {}
        for result in results:
            for reason in dict.fromkeys(result.failures(name)):
                rows_of.setdefault(reason, []).append(result.row.name)
        notes += [f"failed: {name}, {', '.join(rows)}: {why}" for why, rows in rows_of.items()]
    notes += _cluster_part(results)
    return f"{text}\n\nMeasured with {about}.\n\n" + "\n".join(f"* {note}" for note in notes) + "\n"


def _beside(results: list[Result]) -> list[str]:
    """Compare rows of rbdfs with each other, where they were both measured."""
    medians = {result.row.name: result.median(SUBJECT) for result in results}
    notes = []
    for result in results:
        name, most = result.row.beside or ("", 0.0)
        ours, other = medians[result.row.name], medians.get(name)
        if ours and other and not result.bound(SUBJECT):
            text = f"{result.row.name} takes {ours / other:.2f} times as long as {name}"
            notes.append(f"{SUBJECT}: {text} (target: at most {most:g}).")
    return notes


def _listed(results: list[Result], contenders: list[str]) -> list[str]:
    """Say which listings are not of everything."""
    notes = []
    for result in results:
        for name in contenders:
            counts = {sample.listed for sample in result.samples(name)} - {None, LISTED}
            notes += [
                f"{name}: {result.row.name} is of {count} images and snapshots out of {LISTED}; "
                "for the others there is a name at most."
                for count in counts
            ]
    return notes


def _cluster_part(results: list[Result]) -> list[str]:
    """Say how much of the machine the cluster itself took, and where that was the limit."""
    parts = {}
    for result in results:
        limit = [sample for sample in result.samples("librbd") if sample.machine_busy]
        if limit:
            busy = statistics.median(sample.machine_busy for sample in limit)
            parts[result.row.name] = busy, statistics.median(sample.osd_share for sample in limit)
    if not parts:
        return []
    busy, share = (statistics.median(values) for values in zip(*parts.values(), strict=True))
    full = [name for name, (busy, share) in parts.items() if busy > FULL and share > DOMINATES]
    note = f"With librbd alone the CPUs were {busy:.0%} busy; the OSD took {share:.0%} of that."
    return [note + (f" The OSD was the bottleneck in: {', '.join(full)}." if full else "")]


def setting(rounds: int, seconds: float, objectstore: str) -> dict[str, Any]:
    """What the figures depend on."""
    with open("/proc/cpuinfo", encoding="utf-8") as info:
        models = [line.partition(":")[2].strip() for line in info if line.startswith("model name")]
    qemu = run(["qemu-storage-daemon", "--version"]).split()
    return {
        "rounds": rounds,
        "seconds": f"{seconds:g}",
        "CPUs": f"{os.cpu_count()} x {models[0] if models else platform.machine()}",
        "Linux": platform.release(),
        "Ceph": run(["rbd", "--version"]).split()[2],
        "objectstore": objectstore,
        "QEMU": qemu[2],
        "fio": run(["fio", "--version"]).strip().removeprefix("fio-"),
    }


def write_json(
    path: Path, results: list[Result], contenders: list[str], setting: dict[str, Any]
) -> None:
    rows = [
        {
            "name": result.row.name,
            "title": result.row.title,
            "unit": result.row.unit,
            "more_is_better": result.row.more_is_better,
            "targets": result.row.targets,
            "medians": {name: result.median(name) for name in contenders},
            "ratios": {name: result.ratio(name) for name in contenders if name != SUBJECT},
            "rounds": [
                {name: sample and asdict(sample) for name, sample in each.items()}
                for each in result.rounds
            ],
        }
        for result in results
    ]
    path.write_text(json.dumps({"setting": setting, "rows": rows}, indent=1) + "\n")


def check_svg() -> None:
    """Raise BenchError where there is no matplotlib: before hours of measuring."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise BenchError(
            "--svg needs matplotlib: .venv/bin/pip install matplotlib, "
            "then .venv/bin/python contrib/bench ..."
        ) from None


def write_svg(path: Path, results: list[Result], contenders: list[str]) -> None:
    """A bar for each ratio; the line at 1 is as fast as the peer."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    peers = [name for name in contenders if name != SUBJECT]
    figure, axes = pyplot.subplots(figsize=(9, 1 + 0.5 * len(results)), layout="constrained")
    height = 0.8 / max(1, len(peers))
    for index, peer in enumerate(peers):
        known = [
            (place, ratio) for place, each in enumerate(results) if (ratio := each.ratio(peer))
        ]
        places = [place + (index - (len(peers) - 1) / 2) * height for place, _ in known]
        bars = axes.barh(places, [ratio for _, ratio in known], height, label=f"{peer} = 1")
        axes.bar_label(bars, fmt="%.2f", padding=2, fontsize=7)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    shown = [ratio for each in results for peer in peers if (ratio := each.ratio(peer))] + [1]
    ticks = [tick for tick in TICKS if min(shown) / 2 <= tick <= max(shown) * 2]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("speed of rbdfs as a multiple of the peer's")
    axes.set_yticks(range(len(results)), [result.row.title.replace("`", "") for result in results])
    axes.invert_yaxis()
    axes.legend(loc="lower right", fontsize=8)
    # Without a date, so that the same figures give the same file.
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
