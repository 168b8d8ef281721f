"""The meters: their layout, as C has it too, and what is read is what was counted."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import rbdfs
from rbdfs.model import meters
from rbdfs.model import meters_layout as layout
from rbdfs.model.metering import Metering, bucket_of
from rbdfs.model.meters import OTHER_ERRORS, Snapshot, quantile
from rbdfs.model.meters_layout import BOUNDS_S, OTHERS, Operation

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(rbdfs.__file__).parent / "datapath" / "src"
LAYOUT = """
#include <stdio.h>
#include "meters.h"
#define AT(kind, member) printf("\\"%s.%s\\": %zu, ", #kind, #member, offsetof(struct kind, member))
int main(void) {
    printf("{");
    AT(meters_header, images_used); AT(meters_header, answered_ns);
    AT(meters_memory, figures); AT(meters_memory, images);
    AT(figure, value); AT(image_meters, key); AT(image_meters, meters);
    AT(meter, in_flight); AT(meter, bytes); AT(meter, sum_ns); AT(meter, buckets);
    AT(meter, errors); AT(meter_error, count);
    printf("\\"sizes\\": [%zu, %zu, %zu, %zu, %zu], ", sizeof(struct meters_memory),
           sizeof(struct meters_header), sizeof(struct figure), sizeof(struct image_meters),
           sizeof(struct meter));
    printf("\\"counts\\": [%d, %d, %d, %d, %d], ", METERS_IMAGES, METERS_FIGURES, METER_BUCKETS,
           METER_ERRORS, METER_WRITERS);
    printf("\\"operations\\": [%d, %d, %d, %d, %d, %d, %d, %d, %d, %d], ", METER_READ, METER_WRITE,
           METER_FLUSH, METER_DISCARD, METER_WRITE_ZEROES, METER_SEEK, METER_COPY, METER_CLOSE,
           METER_ALLOCATE, METER_OPERATIONS);
    printf("\\"writers\\": [%d, %d], ", METER_NATIVE, METER_PYTHON);
    printf("\\"version\\": [%llu, %d]}", METERS_MAGIC, METERS_VERSION);
}
"""


@pytest.fixture
def memory() -> bytearray:
    memory = bytearray(layout.BYTES)
    memory[: len(layout.empty())] = layout.empty()
    return memory


class Clock:
    """One that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now_ns = 1_000

    def __call__(self) -> int:
        return self.now_ns


def test_layout_is_that_of_c(tmp_path: Path) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    (tmp_path / "layout.c").write_text(LAYOUT)
    program = tmp_path / "layout"
    subprocess.run(["gcc", f"-I{SOURCE}", "-o", program, tmp_path / "layout.c"], check=True)
    found = json.loads(subprocess.run([program], check=True, stdout=subprocess.PIPE).stdout)
    assert found == {
        "meters_header.images_used": layout.USED_OFFSET,
        "meters_header.answered_ns": layout.ANSWERED_OFFSET,
        "meters_memory.figures": layout.FIGURES_OFFSET,
        "meters_memory.images": layout.IMAGES_OFFSET,
        "figure.value": layout.FIGURE_NAME_BYTES,
        "image_meters.key": layout.WORD,
        "image_meters.meters": layout.METERS_OFFSET,
        "meter.in_flight": layout.IN_FLIGHT * layout.WORD,
        "meter.bytes": layout.TRANSFERRED * layout.WORD,
        "meter.sum_ns": layout.SUM_NS * layout.WORD,
        "meter.buckets": layout.FIRST_BUCKET * layout.WORD,
        "meter.errors": layout.FIRST_ERROR * layout.WORD,
        "meter_error.count": layout.WORD,
        "sizes": [
            *(layout.BYTES, layout.HEADER_BYTES, layout.FIGURE_BYTES),
            *(layout.IMAGE_BYTES, layout.METER_BYTES),
        ],
        "counts": [
            layout.IMAGES,
            layout.FIGURES,
            layout.BUCKETS,
            layout.ERRORS,
            2,
        ],
        "operations": [*Operation, len(Operation)],
        "writers": [layout.NATIVE, layout.PYTHON],
        "version": [layout.MAGIC, layout.VERSION],
    }


def test_what_was_counted_is_read(memory: bytearray) -> None:
    clock = Clock()
    metering = Metering(memory, clock)
    number = metering.number("rbd/vm1")
    assert metering.number("rbd/vm1") == number != 0
    for took_ns, error in ((10_000, 0), (20_000, 0), (10**12, errno.EIO)):
        begun = metering.begin(number, Operation.READ)
        clock.now_ns += took_ns
        metering.end(number, Operation.READ, begun, 512, error)
    metering.begin(number, Operation.WRITE)
    metering.figure("restarts").add()
    metering.answered()
    snapshot = Snapshot.of(memory)
    assert snapshot.images.keys() == {"rbd/vm1"}
    read = snapshot.images["rbd/vm1"].operations["read"]
    assert (read.count, read.bytes, read.errors) == (3, 1024, {"EIO": 1})
    assert (read.buckets[0], read.buckets[1], read.buckets[-1]) == (1, 1, 1)
    assert read.sum_s == pytest.approx(1000.00003)
    assert snapshot.images["rbd/vm1"].operations["write"].in_flight == 1
    assert snapshot.images["rbd/vm1"].operations["flush"] == meters.NOTHING
    assert (snapshot.figures, snapshot.answered_ns) == ({"restarts": 1.0}, clock.now_ns)


def test_the_next_server_goes_on_counting(memory: bytearray) -> None:
    first = Metering(memory)
    number = first.number("rbd/ns/vm1")
    first.end(number, Operation.WRITE, first.begin(number, Operation.WRITE), 4096)
    first.begin(number, Operation.WRITE)
    first.figure("moves").add(2)
    before = Snapshot.of(memory)
    second = Metering(memory)
    assert second.number("rbd/ns/vm1") == number
    second.end(number, Operation.WRITE, second.begin(number, Operation.WRITE), 512)
    second.figure("fences").add()
    second.figure("moves").add()
    snapshot = Snapshot.of(memory)
    write = snapshot.images["rbd/ns/vm1"].operations["write"]
    # What was in flight is sent again, and counted by the server that answers it.
    assert (write.count, write.bytes, write.in_flight) == (2, 4608, 0)
    assert snapshot.figures == {"moves": 3.0, "fences": 1.0}
    since = snapshot.since(before).images["rbd/ns/vm1"].operations["write"]
    assert (since.count, since.bytes) == (1, 512)


def test_what_did_nothing_is_not_looked_at_again(memory: bytearray) -> None:
    metering = Metering(memory)
    idle, busy = metering.number("rbd/idle"), metering.number("rbd/busy")
    metering.end(idle, Operation.READ, metering.begin(idle, Operation.READ), 1)
    before = Snapshot.of(bytes(memory))
    metering.begin(busy, Operation.WRITE)
    late = metering.number("rbd/late")
    metering.begin(late, Operation.WRITE)
    metering.begin(0, Operation.SEEK)
    after = Snapshot.of(bytes(memory), before)
    assert after == Snapshot.of(memory)
    assert after.images["rbd/idle"] is before.images["rbd/idle"]
    assert after.images[OTHERS].operations["seek"].in_flight == 1
    # Of memory that goes on changing, all is looked at.
    assert Snapshot.of(memory, Snapshot.of(memory)) == after


def test_what_has_no_place_is_counted_with_the_others(memory: bytearray) -> None:
    metering = Metering(memory)
    assert OTHERS not in Snapshot.of(memory).images
    assert metering.number("x" * 5000) == 0
    for i in range(layout.IMAGES + 9):
        number = metering.number(f"rbd/vm{i}")
    assert number == 0
    metering.end(0, Operation.READ, metering.begin(0, Operation.READ), 1)
    images = Snapshot.of(memory).images
    assert len(images) == layout.IMAGES
    assert images[OTHERS].operations["read"].count == 1
    assert Metering(memory).number("rbd/vm4094") == layout.IMAGES - 1


def test_a_figure_without_a_place_takes_that_of_no_image(memory: bytearray) -> None:
    """Servers of many versions have written theirs: the next one serves all the same."""
    metering = Metering(memory)
    for i in range(layout.FIGURES):
        metering.figure(f"old_{i}").value = i
    before = bytes(memory)
    for server in (metering, Metering(memory)):
        for _ in range(2):
            server.figure("new").add()
        assert server.figure("new").value == 2
    assert bytes(memory) == before


def test_errors_of_many_kinds(memory: bytearray) -> None:
    metering = Metering(memory)
    for error in [*range(1, 12), 1]:
        metering.end(0, Operation.SEEK, metering.begin(0, Operation.SEEK), 0, error)
    errors = Snapshot.of(memory).images[OTHERS].operations["seek"].errors
    assert errors["EPERM"] == 2
    assert (len(errors), errors[OTHER_ERRORS]) == (8, 4)


def bounds_and_beyond() -> Iterator[tuple[int, int]]:
    for i, bound_s in enumerate(BOUNDS_S):
        ns = round(bound_s * 1e9)
        yield ns, i
        yield ns + 1, i + 1


@pytest.mark.parametrize(("ns", "bucket"), [(0, 0), (1, 0), *bounds_and_beyond(), (10**15, 23)])
def test_bounds(ns: int, bucket: int) -> None:
    assert bucket_of(ns) == bucket


def test_quantiles() -> None:
    buckets = [0] * layout.BUCKETS
    assert quantile(buckets, 0.5) is None
    buckets[3] = 98
    buckets[10] = 2
    assert BOUNDS_S[2] < (quantile(buckets, 0.5) or 0) < BOUNDS_S[3]
    assert BOUNDS_S[9] < (quantile(buckets, 0.99) or 0) <= BOUNDS_S[10]
    buckets[-1] = 1000
    assert quantile(buckets, 0.99) == BOUNDS_S[-1]


@pytest.mark.parametrize("data", [b"", bytes(layout.HEADER_BYTES), layout.empty()])
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        Snapshot.of(data)
