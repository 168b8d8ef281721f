"""What is measured: the rows of the table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from benchmarks.ceph import IMAGES, LISTED_IMAGES, LISTED_SNAPSHOTS, MIB
from benchmarks.measurement import Copy, Fio, Listing

if TYPE_CHECKING:
    from benchmarks.ceph import Bench
    from benchmarks.contenders import Contender
    from benchmarks.measurement import Sample


class Measurement(Protocol):
    """One way to a value; None from a contender that cannot do it."""

    def measure(self, bench: Bench, contender: Contender) -> Sample | None: ...


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        group: the rows that are measured together by this name.
        targets: what the speed of rbdfs should be, as a multiple of that peer's.
        more_is_better: false for times.
        beside: another row of rbdfs to compare with, and how many times its time may be taken.
    """

    group: str
    name: str
    title: str
    unit: str
    measurement: Measurement
    targets: dict[str, float]
    more_is_better: bool = True
    beside: tuple[str, float] | None = None


def _fio_rows(images: int) -> list[Row]:
    suffix = f"-x{images}" if images > 1 else ""
    at_once = f", {images} images at once" if images > 1 else ""
    rows = []
    for name, title, rw, block, depth, qemu, librbd in (
        ("randread-4k", "4 KiB random read", "randread", 4096, 32, 1.15, 0.9),
        ("randread-4k", "4 KiB random read", "randread", 4096, 1, 1.0, 0.9),
        ("randwrite-4k", "4 KiB random write", "randwrite", 4096, 32, 1.1, 0.9),
        ("randwrite-4k", "4 KiB random write", "randwrite", 4096, 1, None, None),
        ("read-1m", "1 MiB sequential read", "read", MIB, 8, 1.1, 0.95),
        ("write-1m", "1 MiB sequential write", "write", MIB, 8, 1.1, 0.95),
    ):
        small = block < MIB
        fio = Fio(rw, block, depth, images, report="iops" if small else "mib")
        targets = {"qemu": qemu, "librbd": librbd} if images == 1 else {"qemu": 1.0}
        rows.append(
            Row(
                "requests",
                f"{name}-qd{depth}{suffix}",
                f"{title}, depth {depth}{at_once}",
                "IOPS" if small else "MiB/s",
                fio,
                {peer: ratio for peer, ratio in targets.items() if ratio is not None},
            )
        )
    return rows


def _copy(
    name: str,
    title: str,
    measurement: Copy,
    targets: dict[str, float],
    beside: tuple[str, float] | None = None,
) -> Row:
    return Row("copy", name, title, "s", measurement, targets, False, beside)


ROWS = (
    *_fio_rows(1),
    *_fio_rows(IMAGES),
    *(
        Row(
            "requests",
            f"cpu-{rw}-4k-qd32",
            f"CPU of the server a 4 KiB {text}, depth 32",
            "us",
            Fio(rw, 4096, 32, report="cpu"),
            {"qemu": 1.0},
            more_is_better=False,
        )
        for rw, text in (("randread", "read"), ("randwrite", "write"))
    ),
    Row(
        "requests",
        "fsync-4k",
        "4 KiB random write, fsync after each",
        "IOPS",
        Fio("randwrite", 4096, 1, fsync=True),
        {"librbd": 0.95},
    ),
    *(
        Row(
            "requests",
            f"buffered-{name}",
            f"buffered write, {text} each as {tool} makes them",
            "MiB/s",
            Fio("write", size, 1, buffered=True, report="mib"),
            {"qemu": 1.0},
        )
        for name, size, text, tool in (
            ("128k", 128 << 10, "128 KiB", "`cp`"),
            ("1m", MIB, "1 MiB", "`dd bs=1M`"),
        )
    ),
    _copy(
        "cp-snapshot-cold",
        "`cp` of a 1 GiB snapshot, cold",
        Copy(),
        {"qemu": 1.2, "rbd-fuse": 1.2},
    ),
    _copy(
        "cp-snapshot-again",
        "`cp` of a 1 GiB snapshot, again",
        Copy(again=True),
        {"qemu": 5.0, "rbd-fuse": 5.0},
    ),
    _copy(
        "cp-256m",
        "`cp` of a 256 MiB snapshot, all data, cold",
        Copy("plain"),
        {},
    ),
    _copy(
        "cp-sparse-100g",
        "`cp --sparse=auto` of a 100 GiB snapshot with 256 MiB of data, cold",
        Copy("thin"),
        {},
        beside=("cp-256m", 2.0),
    ),
    Row(
        "list",
        "ls-1000",
        f"`ls -l` of {LISTED_IMAGES} images and {LISTED_SNAPSHOTS} snapshots, cold",
        "s",
        Listing(),
        {"librbd": 3.0},
        more_is_better=False,
    ),
)
GROUPS = tuple(dict.fromkeys(row.group for row in ROWS))
