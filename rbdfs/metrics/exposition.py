"""Meters as Prometheus' text: names, labels and units.

All names begin with `rbdfs_`. Labels `pool`, `namespace` and, where that is wanted, `image` are
those of the `ceph_rbd_*` of Ceph's manager, so that both can be joined; `mountpoint` is there
because a host may have several mounts.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import reduce
from itertools import accumulate
from operator import add
from typing import TYPE_CHECKING
from urllib.parse import unquote

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from rbdfs.model import figures
from rbdfs.model.meters import NO_IMAGE, NOTHING, OperationMeters
from rbdfs.model.meters_layout import BOUNDS_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from rbdfs.model.meters import ImageMeters, Snapshot

_REQUEST_LABELS = ("pool", "namespace", "image", "operation")


@dataclass(frozen=True, slots=True)
class Mount:
    """What is the same in all metrics of a mount.

    Attributes:
        mountpoint, source: of the mount.
        images: whether there is a label `image`, and a series for each.
    """

    mountpoint: str
    source: str
    images: bool = False

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of what is counted for an image; that of an operation comes last."""
        return tuple(label for label in _REQUEST_LABELS if self.images or label != "image")


@dataclass(frozen=True, slots=True)
class Reading:
    """The meters at one time, and whether a server is ready: None for what that says itself."""

    snapshot: Snapshot
    serving: bool | None = None


def registry(mount: Mount, read: Callable[[], Reading]) -> CollectorRegistry:
    """Return what prometheus_client renders: each time what *read* returns then."""
    # A registry that describes would read at once, to know the names.
    result = CollectorRegistry(auto_describe=False)
    result.register(_Collector(mount, read))
    return result


def _text(path: str) -> str:
    """Return *path* as UTF-8, which labels are."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


class _Collector:
    """Reads, and makes metrics of it, when somebody scrapes."""

    def __init__(self, mount: Mount, read: Callable[[], Reading]) -> None:
        mountpoint, source = _text(mount.mountpoint), _text(mount.source)
        self._mount = replace(mount, mountpoint=mountpoint, source=source)
        self._read = read

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics as they are now; raise what reading raises."""
        reading = self._read()
        yield from _requests(self._mount, reading.snapshot)
        yield from _figures(self._mount, reading.snapshot)
        yield _turns(self._mount, reading.snapshot)
        yield from _state(self._mount, reading)


def _series(mount: Mount, snapshot: Snapshot) -> Iterator[tuple[list[str], OperationMeters]]:
    """Yield the values of labels with what was counted under them."""
    for values, images in _grouped(mount, snapshot).items():
        for operation in NO_IMAGE.operations:
            meters = reduce(add, (image.operations[operation] for image in images), NOTHING)
            # A pool has all of them; for each image that would be too many.
            if not mount.images or meters != NOTHING:
                yield [mount.mountpoint, *values, operation], meters


def _grouped(mount: Mount, snapshot: Snapshot) -> dict[tuple[str, ...], list[ImageMeters]]:
    groups: dict[tuple[str, ...], list[ImageMeters]] = defaultdict(list)
    for key, image in snapshot.images.items():
        pool, namespace, name = _names(key)
        where = (pool, namespace, name) if mount.images else (pool, namespace)
        groups[where].append(image)
    return groups


def _names(key: str) -> tuple[str, str, str]:
    """Return pool, namespace and image of a spec; nothing for OTHERS, and what is no spec."""
    match [unquote(part) for part in key.split("/")]:
        case [pool, image]:
            return pool, "", image
        case [pool, namespace, image]:
            return pool, namespace, image
        case _:
            return "", "", ""


def _requests(mount: Mount, snapshot: Snapshot) -> Iterator[Metric]:
    labels = ("mountpoint", *mount.labels)
    durations = HistogramMetricFamily(
        "rbdfs_request_duration_seconds",
        "Requests of the kernel that were answered, by how long that took.",
        labels=labels,
    )
    transferred = CounterMetricFamily(
        "rbdfs_request_bytes",
        "Bytes that requests have read, written, copied, zeroed or discarded.",
        labels=labels,
    )
    errors = CounterMetricFamily(
        "rbdfs_request_errors",
        "Requests that were answered with an error, by its name.",
        labels=(*labels, "errno"),
    )
    in_flight = GaugeMetricFamily(
        "rbdfs_requests_in_flight", "Requests that are not answered yet.", labels=labels
    )
    for values, meters in _series(mount, snapshot):
        durations.add_metric(values, _cumulative(BOUNDS_S, meters.buckets), meters.sum_s)
        transferred.add_metric(values, meters.bytes)
        in_flight.add_metric(values, meters.in_flight)
        for name, count in meters.errors.items():
            errors.add_metric([*values, name], count)
    yield from (durations, transferred, errors, in_flight)


def _cumulative(bounds: Sequence[float], counts: Sequence[float]) -> Sequence[tuple[str, float]]:
    # As people write them: 1.6e-05 has a tail of digits where it was multiplied.
    names = [*(f"{bound:.10g}" for bound in bounds), "+Inf"]
    return list(zip(names, accumulate(counts), strict=True))


def _figures(mount: Mount, snapshot: Snapshot) -> Iterator[Metric]:
    families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
    for name, kind in figures.KINDS.items():
        value = snapshot.figures.get(name)
        if value is None:
            # An older server does not write it.
            continue
        label, label_value = kind.label[:1], kind.label[1:]
        family = families.get(kind.metric)
        if family is None:
            make = CounterMetricFamily if kind.counter else GaugeMetricFamily
            family = make(f"rbdfs_{kind.metric}", kind.text, labels=("mountpoint", *label))
            families[kind.metric] = family
        family.add_metric([mount.mountpoint, *label_value], value)
    yield from families.values()


def _turns(mount: Mount, snapshot: Snapshot) -> Metric:
    family = HistogramMetricFamily(
        "rbdfs_main_thread_turn_seconds",
        "Turns of the main thread, which does all but reads and writes, by how long others waited.",
        labels=("mountpoint",),
    )
    names = [figures.turns(bound) for bound in (*figures.TURNS_S, figures.LONGER)]
    counts = [snapshot.figures.get(name, 0.0) for name in names]
    total_s = snapshot.figures.get(figures.TURNS_SUM, 0.0)
    family.add_metric([mount.mountpoint], _cumulative(figures.TURNS_S, counts), total_s)
    return family


def _state(mount: Mount, reading: Reading) -> Iterator[Metric]:
    snapshot, now_s = reading.snapshot, time.monotonic()
    begun_s = snapshot.figures.get(figures.TURN_BEGUN, 0.0)
    yield _gauge(
        mount,
        "main_thread_busy_seconds",
        "For how long the main thread has not looked at what has happened since.",
        max(0.0, now_s - begun_s) if begun_s else 0.0,
    )
    if snapshot.answered_ns:
        yield _gauge(
            mount,
            "cluster_last_answer_age_seconds",
            "How long ago the cluster has answered last; it grows too where nothing is asked.",
            max(0.0, now_s - snapshot.answered_ns / 1e9),
        )
    serving = reading.serving
    if serving is None:
        serving = bool(snapshot.figures.get(figures.READY))
    yield _gauge(mount, "serving", "Whether a server is ready.", float(serving))
    info = GaugeMetricFamily(
        "rbdfs_mount_info", "What is mounted.", labels=("mountpoint", "source")
    )
    info.add_metric([mount.mountpoint, mount.source], 1)
    yield info


def _gauge(mount: Mount, name: str, text: str, value: float) -> Metric:
    family = GaugeMetricFamily(f"rbdfs_{name}", text, labels=("mountpoint",))
    family.add_metric([mount.mountpoint], value)
    return family
