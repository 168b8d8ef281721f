"""Meters as Prometheus' text, read by its own parser."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from rbdfs.metrics.exposition import Mount, Reading, registry
from rbdfs.model import figures, meters_layout
from rbdfs.model.metering import Metering
from rbdfs.model.meters import Snapshot
from rbdfs.model.meters_layout import Operation

if TYPE_CHECKING:
    from collections.abc import Callable

MOUNTPOINT = '/srv/a "b"\n\udcff'


@pytest.fixture
def memory() -> bytearray:
    memory = bytearray(meters_layout.BYTES)
    memory[: len(meters_layout.empty())] = meters_layout.empty()
    return memory


def samples(memory: bytearray, *, images: bool = False) -> dict[tuple[str, str], float]:
    """Values by name and labels, but for the mount point."""
    mount = Mount("/srv/rbd", "rbd", images)
    text = generate_latest(registry(mount, lambda: Reading(Snapshot.of(memory)))).decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = dict(sample.labels)
            assert labels.pop("mountpoint") == "/srv/rbd"
            joined = ",".join(f"{name}={value}" for name, value in sorted(labels.items()))
            assert (sample.name, joined) not in found
            found[sample.name, joined] = sample.value
    return found


def count(memory: bytearray, *specs: str) -> None:
    """One read of 512 bytes of each, which takes no time, and a write that fails."""
    now_ns: Callable[[], int] = lambda: 5  # noqa: E731
    metering = Metering(memory, now_ns)
    for spec in specs:
        number = metering.number(spec)
        metering.end(number, Operation.READ, metering.begin(number, Operation.READ), 512)
        begun = metering.begin(number, Operation.WRITE)
        metering.end(number, Operation.WRITE, begun, 0, errno.EIO)


def test_images_of_a_pool_are_one_series_unless_asked_for(memory: bytearray) -> None:
    count(memory, "rbd/vm1", "rbd/vm2", "rbd/ns/vm1")
    found = samples(memory)
    name = "rbdfs_request_duration_seconds"
    assert found[f"{name}_count", "namespace=,operation=read,pool=rbd"] == 2
    assert found[f"{name}_count", "namespace=ns,operation=read,pool=rbd"] == 1
    assert found[f"{name}_bucket", "le=1.6e-05,namespace=,operation=read,pool=rbd"] == 2
    assert found[f"{name}_bucket", "le=+Inf,namespace=,operation=read,pool=rbd"] == 2
    assert found["rbdfs_request_bytes_total", "namespace=,operation=read,pool=rbd"] == 1024
    assert found["rbdfs_request_errors_total", "errno=EIO,namespace=,operation=write,pool=rbd"] == 2
    assert found[f"{name}_count", "namespace=,operation=discard,pool=rbd"] == 0
    assert not [labels for _, labels in found if "image=" in labels]


def test_images_by_name(memory: bytearray) -> None:
    count(memory, "rbd/vm1", "rbd/a%2Fb%40%FF")
    found = samples(memory, images=True)
    name = "rbdfs_request_duration_seconds_count"
    assert found[name, "image=vm1,namespace=,operation=read,pool=rbd"] == 1
    assert found[name, "image=a/b@\ufffd,namespace=,operation=read,pool=rbd"] == 1
    assert (name, "image=vm1,namespace=,operation=discard,pool=rbd") not in found


def test_what_has_no_place_of_its_own(memory: bytearray) -> None:
    """Nor does what no server writes: the memory is of who has mounted, and root may read it."""
    count(memory, "x" * 5000, "no spec", "a/b/c/d", "")
    name = "rbdfs_request_duration_seconds_count"
    for images, labels in ((False, ""), (True, "image=,")):
        found = samples(memory, images=images)
        assert found[name, f"{labels}namespace=,operation=read,pool="] == 4


def test_figures(memory: bytearray) -> None:
    metering = Metering(memory)
    for name in figures.KINDS:
        metering.figure(name)
    metering.figure("restarts_crash").add(3)
    metering.figure("a_newer_server_writes_it").add()
    metering.figure(figures.turns(0.005)).add(4)
    metering.figure(figures.turns(figures.LONGER)).add(1)
    metering.figure(figures.TURNS_SUM).add(2.5)
    assert samples(memory)["rbdfs_serving", ""] == 0
    metering.figure(figures.READY).value = 1
    found = samples(memory)
    assert found["rbdfs_restarts_total", "reason=crash"] == 3
    assert found["rbdfs_restarts_total", "reason=asked"] == 0
    assert found["rbdfs_cache_hits_total", "cache=extents"] == 0
    assert found["rbdfs_main_thread_turn_seconds_bucket", "le=0.005"] == 4
    assert found["rbdfs_main_thread_turn_seconds_count", ""] == 5
    assert found["rbdfs_main_thread_turn_seconds_sum", ""] == 2.5
    assert found["rbdfs_serving", ""] == 1
    assert found["rbdfs_mount_info", "source=rbd"] == 1
    # It has never answered.
    assert ("rbdfs_cluster_last_answer_age_seconds", "") not in found
    metering.answered()
    assert samples(memory)["rbdfs_cluster_last_answer_age_seconds", ""] >= 0


def test_names_of_any_bytes(memory: bytearray) -> None:
    count(memory, "rbd/vm1")
    mount = Mount(MOUNTPOINT, MOUNTPOINT, images=True)
    text = generate_latest(registry(mount, lambda: Reading(Snapshot.of(memory))))
    families = list(text_string_to_metric_families(text.decode()))
    (info,) = (family for family in families if family.name == "rbdfs_mount_info")
    assert info.samples[0].labels["mountpoint"] == '/srv/a "b"\n\ufffd'
