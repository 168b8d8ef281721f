"""What `rbdfs top` draws: it fits, and nothing that others have named is obeyed."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
from rich.cells import cell_len
from rich.console import Console

from rbdfs.commands.top_figures import ORDERS, Condition, ImageLoad, MountLoad, first
from rbdfs.commands.top_screen import View, screen, shortened
from rbdfs.model.rates import IDLE, OperationRates, Rates

if TYPE_CHECKING:
    from collections.abc import Sequence

SERVING = Condition("serving", 2, "server 2 ended", 3.0)
HOSTILE = [
    "rbd/[red]x[bold]",
    "rbd/\x1b[2J\x07\r\n",
    "rbd/" + "世界" * 90,
    "rbd/:smile: [link=https://example.com]",
    "rbd/a\u202eb\u0301\u200d",
    "rbd/" + "x" * 900 + "@end",
]


def image(spec: str, iops: float, mountpoint: str = "/mnt") -> ImageLoad:
    each = OperationRates(iops, iops * 4096, 0.0004, 0.0123)
    rates = Rates(each, OperationRates(), each, OperationRates(), in_flight=3)
    return ImageLoad(mountpoint, spec, rates, [iops] * 60)


def mount(images: Sequence[ImageLoad], condition: Condition = SERVING) -> MountLoad:
    return MountLoad("/mnt", "rbd", condition, 1.0, IDLE, 0.2, images)


def drawn(
    mounts: Sequence[MountLoad], width: int = 80, height: int | None = 20, *, ascii_: bool = False
) -> list[str]:
    file = io.StringIO()
    console = Console(
        file=file, width=width, markup=False, emoji=False, highlight=False, color_system=None
    )
    view = View(mounts, ORDERS[0], width, height, "12:34:56", unicode=not ascii_)
    console.print(screen(view), end="")
    return file.getvalue().split("\n")


@pytest.mark.parametrize("width", [80, 200, 120, 60, 20, 8])
@pytest.mark.parametrize("several", [False, True])
def test_hostile_names(width: int, several: bool) -> None:
    mounts = [mount([image(spec, 10.0 * n, spec) for n, spec in enumerate(HOSTILE)])]
    if several:
        mounts += [MountLoad(spec, spec, Condition("unknown", 1, spec)) for spec in HOSTILE]
    lines = drawn(mounts, width, 40)
    assert len(lines) <= 40
    assert all(cell_len(line) <= width for line in lines)
    assert all(char.isprintable() for line in lines for char in line)
    if width >= 80 and not several:
        assert any(line.startswith("[red]x[bold]") for line in lines)
        assert any(line.startswith(r"\x1b[2J\x07\r\n") for line in lines)
        assert any(line.startswith(r"a\u202eb") for line in lines)
        assert any(line.startswith("x" * 6) and "@end" in line for line in lines)


def test_a_terminal_that_has_only_ascii() -> None:
    lines = drawn([mount([image("rbd/世界", 1.0), image("rbd/vm1", 2.0)])], ascii_=True)
    assert all(line.isascii() for line in lines)
    assert any(line.startswith(r"\u4e16\u754c") for line in lines)


def test_columns_are_aligned_whatever_the_names() -> None:
    lines = drawn([mount([image(spec, 12345.0) for spec in [*HOSTILE, "rbd/vm1"]])])
    rows = [line for line in lines if "12,345" in line]
    assert len(rows) == len(HOSTILE) + 1
    assert len({cell_len(row.partition("12,345")[0]) for row in rows}) == 1


@pytest.mark.parametrize("height", [7, 8, 24, 200])
def test_only_what_fits(height: int) -> None:
    images = [image(f"rbd/vm{n}", float(n)) for n in range(5000)]
    lines = drawn([mount(images)], 80, height)
    assert len(lines) == height
    assert lines[-1].startswith("i IOPS")
    shown = [line for line in lines if line.startswith("vm")]
    assert [line.split()[0] for line in shown] == [f"vm{4999 - n}" for n in range(height - 6)]
    assert f"and {5000 - len(shown):,} more images" in "\n".join(lines)


def test_many_mounts_leave_room_for_images() -> None:
    mounts = [mount([image(f"rbd/vm{n}", float(n), f"/mnt/{n}")]) for n in range(100)]
    lines = drawn(mounts, 80, 24)
    assert len(lines) == 24
    assert any("more mounts" in line for line in lines)
    assert sum(line.startswith("rbd/vm") for line in lines) >= 8


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        (SERVING, "serving  answered 0.2 s ago  restarts 2  lag 3 ms"),
        (Condition("serving", waits_s=12.0), "serving  waits for 12 s"),
        (
            Condition("serving", waits_s=12.0, reason="osd.\x1b0 is down"),
            r"osd.\x1b0 is down  read 0/s",
        ),
        (Condition("given up", 3, "server 4 failed: no"), "given up"),
        (Condition("given up", 3, "server 4 failed: no"), "server 4 failed: no"),
    ],
)
def test_condition(condition: Condition, words: str) -> None:
    lines = drawn([mount([], condition)])
    assert words in "\n".join(lines[:2])
    assert lines[0].startswith("rbd on /mnt ")
    assert lines[0].endswith("12:34:56")


def test_every_order() -> None:
    small = OperationRates(1.0, 1.0, 0.1, 0.1)
    large = OperationRates(2.0, 2.0, 0.2, 0.2)
    one = ImageLoad("/mnt", "rbd/b", Rates(small, large, small, IDLE.other, in_flight=1))
    other = ImageLoad("/mnt", "rbd/a", Rates(large, small, large, IDLE.other, in_flight=0))
    late = ImageLoad("/mnt", "rbd/d", IDLE, [0.0, 1.0])
    idle = ImageLoad("/mnt", "rbd/c", IDLE)
    found = {
        order.name: "".join(each.spec[-1] for each in first([idle, late, one, other], order, 4))
        for order in ORDERS
    }
    assert found == {
        "IOPS": "abdc",
        "read": "abdc",
        "write": "badc",
        "bytes": "abdc",
        "p99": "abdc",
        "depth": "bdac",
        "name": "abcd",
    }
    assert len({order.key for order in ORDERS}) == len(ORDERS)


@pytest.mark.parametrize("width", range(12))
def test_shortened(width: int) -> None:
    for text in ("", "vm1", "世界世界世界世界", "a long name of an image"):
        found = shortened(text, width)
        assert cell_len(found) <= width
        assert found == text or cell_len(text) > width
