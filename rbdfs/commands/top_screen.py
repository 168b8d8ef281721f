"""How `rbdfs top` looks: mounts, as many images as fit, and the keys.

What others have named is drawn as it is: nothing in it is markup, and nothing reaches the terminal
that it would obey.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size
from rich.console import Group
from rich.table import Table
from rich.text import Text

from rbdfs.commands.top_figures import ORDERS, first
from rbdfs.model.meters_layout import OTHERS
from rbdfs.model.printable import printable
from rbdfs.model.sparkline import ASCII, BLOCKS, sparkline

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import RenderableType

    from rbdfs.commands.top_figures import ImageLoad, MountLoad, Order

_MIB = 1 << 20
_GAP = "  "
_NAME_WIDTH = 16
_MINUTE_WIDTH = 60
# Where lines of mounts would leave less than a part of the screen for images, the rest is counted.
_MOUNTS_PART = 2


@dataclass(frozen=True, slots=True)
class View:
    """What is shown, and how.

    Attributes:
        width, height: of the screen, in cells; without a height everything is shown.
        live: whether there are keys to press, and there was a minute.
        unicode: whether what shows it has more than ASCII.
    """

    mounts: Sequence[MountLoad]
    order: Order
    width: int
    height: int | None
    clock: str = ""
    paused: bool = False
    live: bool = True
    unicode: bool = True


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of figures: *width* in cells, *from_width* of the screen it is shown."""

    title: str
    width: int
    from_width: int
    order: str
    cell: Callable[[ImageLoad], str]


_COLUMNS = (
    _Column("READ/s", 7, 0, "r", lambda each: _count(each.rates.read.iops)),
    _Column("WRITE/s", 7, 0, "w", lambda each: _count(each.rates.write.iops)),
    _Column("OTHER/s", 7, 120, "", lambda each: _count(each.rates.other.iops)),
    _Column("READ MiB/s", 10, 120, "", lambda each: _mib(each.rates.read.bytes_s)),
    _Column("WRITE MiB/s", 11, 120, "", lambda each: _mib(each.rates.write.bytes_s)),
    _Column("MiB/s", 8, 0, "b", lambda each: _mib(each.rates.both.bytes_s)),
    _Column("p50 ms", 7, 60, "", lambda each: _ms(each.rates.both.p50_s)),
    _Column("p99 ms", 7, 48, "l", lambda each: _ms(each.rates.both.p99_s)),
    _Column("DEPTH", 5, 40, "d", lambda each: f"{each.rates.in_flight:,}"),
    _Column("ERR/s", 5, 120, "", lambda each: _count(each.rates.errors)),
)


def screen(view: View) -> RenderableType:
    """Return all of it, no higher than the view is."""
    lines = _head(view)
    images = [image for mount in view.mounts for image in mount.images]
    rows = len(images)
    if view.height is not None:
        # The titles, what does not fit, and the keys.
        rows = max(view.height - len(lines) - 2 - view.live, 0)
    shown = first(images, view.order, rows)
    parts: list[RenderableType] = [*lines, _table(view, shown)]
    blank = 0 if view.height is None else view.height - len(lines) - 2 - len(shown) - view.live
    parts += [_line(_left_out(view, images, shown), view.width, "dim")]
    if view.live:
        parts += [Text("")] * max(blank, 0) + [_keys(view)]
    return Group(*parts)


def _head(view: View) -> list[Text]:
    """Return two lines for each mount, and one between them and the images."""
    room = len(view.mounts)
    if view.height is not None:
        room = max((view.height // _MOUNTS_PART - 1) // 2, 1)
    lines: list[Text] = []
    for mount in view.mounts[:room]:
        lines += [_title(mount, view), _line(_totals(mount, view.width), view.width)]
    if len(view.mounts) > room:
        lines.append(_line(f"and {len(view.mounts) - room} more mounts", view.width, "dim"))
    return [*lines, Text("")]


def _title(mount: MountLoad, view: View) -> Text:
    """Return which mount it is, how it does, and at the right end the clock."""
    condition = mount.condition
    right = view.clock if mount is view.mounts[0] else ""
    facts = [condition.state]
    if condition.waits_s:
        facts.append(f"waits for {_age(condition.waits_s)}")
    elif mount.answered_s is not None:
        facts.append(f"answered {_age(mount.answered_s)} ago")
    if condition.restarts:
        facts.append(f"restarts {condition.restarts:,}")
    if condition.lag_ms is not None:
        facts.append(f"lag {condition.lag_ms:,.0f} ms")
    source, mountpoint = _plain(mount.source, view), _plain(mount.mountpoint, view)
    name = f"{source} on {mountpoint}"
    room = view.width - min(cell_len(name), view.width // 3) - len(_GAP)
    tail = _as_fits([*facts, right] if right else facts, room)
    text = Text(name := shortened(name, view.width - len(tail) - len(_GAP)), style="bold")
    text.append(" " * (view.width - cell_len(name) - len(tail)))
    style = "green" if condition.state == "serving" else "bold red"
    text.append(condition.state, "bold yellow" if condition.waits_s else style)
    text.append(tail[len(condition.state) :], "not bold")
    text.truncate(view.width)
    return text


def _as_fits(parts: Sequence[str], width: int) -> str:
    """Return the first ones, of which as many as fit are shown."""
    count = len(parts)
    while count > 1 and len(_GAP.join(parts[:count])) > width:
        count -= 1
    return _GAP.join(parts[:count])


def _totals(mount: MountLoad, width: int) -> str:
    if mount.condition.last_fault and mount.condition.state != "serving":
        return mount.condition.last_fault
    if not mount.seconds:
        return ""
    rates = mount.rates
    parts = [
        *([mount.condition.reason] if mount.condition.reason else []),
        f"read {_count(rates.read.iops)}/s {_mib(rates.read.bytes_s)} MiB/s",
        f"write {_count(rates.write.iops)}/s {_mib(rates.write.bytes_s)} MiB/s",
        *([f"errors {_count(rates.errors)}/s"] if rates.errors else []),
        *([f"p99 {_ms(rates.both.p99_s)} ms"] if rates.both.p99_s else []),
        f"depth {rates.in_flight:,}",
        *([f"p50 {_ms(rates.both.p50_s)} ms"] if rates.both.p50_s else []),
    ]
    return _as_fits(parts, width)


def _table(view: View, images: Sequence[ImageLoad]) -> Table:
    columns = [column for column in _COLUMNS if view.width >= column.from_width]
    several = len(view.mounts) > 1
    # A cell between two columns; the rest is for name and minute.
    rest = view.width - sum(column.width + 1 for column in columns)
    names = [_name(image, view) for image in images]
    widest = max([cell_len(name) for name in names] + [_NAME_WIDTH])
    minute = min(max(rest - widest - 1, rest // 3), _MINUTE_WIDTH)
    if rest - minute - 1 < _NAME_WIDTH or minute < 8 or not view.live:
        minute = 0
    name_width = max(min(rest - (minute + 1 if minute else 0), max(widest, 24)), 1)
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    title = "IMAGE ON MOUNT POINT" if several else "IMAGE"
    table.add_column(_heading(title, "n", view), width=name_width, no_wrap=True)
    for column in columns:
        heading = _heading(column.title, column.order, view)
        table.add_column(heading, justify="right", width=column.width, no_wrap=True)
    if minute:
        title = "LAST MINUTE" if minute > 10 else "MINUTE"
        heading = _heading(title, "i", view)
        table.add_column(heading, width=minute, no_wrap=True)
    glyphs = BLOCKS if view.unicode else ASCII
    for name, image in zip(names, images, strict=True):
        busy = image.rates.iops or image.rates.in_flight
        cells = [Text(shortened(name, name_width)), *(Text(each.cell(image)) for each in columns)]
        if minute:
            cells.append(Text(sparkline(image.history, minute, glyphs), style="cyan"))
        table.add_row(*cells, style="" if busy else "dim")
    return table


def _heading(title: str, order: str, view: View) -> Text:
    return Text(title, style="reverse" if order and order == view.order.key else "")


def _name(image: ImageLoad, view: View) -> str:
    spec = _plain(image.spec, view) if image.spec != OTHERS else "(all others)"
    if len(view.mounts) == 1:
        # What `ls` shows there.
        return spec.removeprefix(f"{_plain(view.mounts[0].source, view)}/")
    return f"{spec} on {_plain(image.mountpoint, view)}"


def _left_out(view: View, images: Sequence[ImageLoad], shown: Sequence[ImageLoad]) -> str:
    if len(shown) < len(images):
        return f"and {len(images) - len(shown):,} more images"
    if not images and any(mount.seconds for mount in view.mounts):
        return "no image was opened yet"
    return ""


def _keys(view: View) -> Text:
    text = Text(no_wrap=True, overflow="crop", end="")
    for order in ORDERS:
        chosen = "reverse" if order is view.order else ""
        text.append(order.key, f"bold {chosen}").append(f" {order.name}", chosen).append("  ")
    text.append("space", "bold")
    text.append(" go on" if view.paused else " pause", "reverse" if view.paused else "")
    text.append("  ").append("q", "bold").append(" quit")
    text.truncate(view.width)
    return text


def _line(text: str, width: int, style: str = "") -> Text:
    return Text(shortened(printable(text), width), style=style, no_wrap=True)


def _plain(text: str, view: View) -> str:
    return printable(text) if view.unicode else ascii(text)[1:-1]


def shortened(text: str, width: int) -> str:
    """Return *text* in no more than *width* cells, without its middle where it has more."""
    if cell_len(text) <= width:
        return text
    gap = "..." if text.isascii() else "\u2026"
    end = ""
    for char in reversed(text):
        if cell_len(char + end) > (width - len(gap)) // 2:
            break
        end = char + end
    head = set_cell_size(text, max(width - cell_len(end) - len(gap), 0)).rstrip()
    return set_cell_size(f"{head}{gap}{end}", width)


def _count(figure: float) -> str:
    """Return a rate in no more than 7 characters."""
    if 0 < figure < 10:
        return f"{max(figure, 0.1):.1f}"
    if figure < 1e6 - 0.5:
        return f"{figure:,.0f}"
    return f"{figure / 1e6:,.1f}M"


def _mib(bytes_s: float) -> str:
    return f"{bytes_s / _MIB:,.1f}"


def _ms(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1e3:,.2f}" if seconds < 0.1 else f"{seconds * 1e3:,.0f}"


def _age(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:,.0f} s"
