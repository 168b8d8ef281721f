"""The report of a file, for people: one thing a line, as `stat` and `rbd info` have it."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from rbdfs.commands.output import exact_size, short_size
from rbdfs.model.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_Report = dict[str, Any]


def report_text(report: _Report) -> str:
    """Return the lines of what ``file_report`` says of one file.

    Raises LookupError, TypeError, ValueError, ArithmeticError or AttributeError where it makes no
    sense.
    """
    left_out, not_known = report["left_out"], report["not_known"]
    rows = [("File", [report["file"]])]
    for title, part, told in _ROWS:
        if part not in report:
            continue
        lines = [] if report[part] is None else list(told(report))
        if (count := left_out.get(part)) is not None:
            lines.append(f"and {int(count)} more")
        if (reason := not_known.get(part)) is not None:
            lines.append(f"not known: {reason}")
        rows.append((title, lines or ["none"]))
    width = max(len(title) for title, _ in rows) + 2
    return "".join(
        f"{'' if number else f'{title}:':<{width}}{printable(line)}\n"
        for title, lines in rows
        for number, line in enumerate(lines)
    )


def _type(report: _Report) -> Iterator[str]:
    parts = [f"{report['type']} {report.get('spec', '')}".rstrip()]
    if report.get("image_id"):
        parts.append(f"id {report['image_id']}")
    if "pool_id" in report:
        parts.append(f"pool id {report['pool_id']}")
    if "format" in report:
        parts.append(f"format {report['format']}")
    yield ", ".join(parts)


def _size(report: _Report) -> Iterator[str]:
    objects = f", in objects of {short_size(report['object_size'])}"
    growing = ", growing" if report["open"]["growing"] else ""
    yield f"{_exact(report['size'])}{growing}{objects}"


def _exactly(part: str) -> Callable[[_Report], Iterator[str]]:
    return lambda report: iter([_exact(report[part])])


def _words(part: str) -> Callable[[_Report], Iterator[str]]:
    return lambda report: iter([", ".join(report[part])] if report[part] else [])


def _line(part: str) -> Callable[[_Report], Iterator[str]]:
    return lambda report: iter([str(report[part])])


def _moment(part: str) -> Callable[[_Report], Iterator[str]]:
    return lambda report: iter([_local(report[part])])


def _local(text: str) -> str:
    return datetime.fromisoformat(text).astimezone().isoformat(" ", "microseconds")


def _exact(length: object) -> str:
    return exact_size(_checked(length))


def _checked(length: object) -> int:
    if type(length) is not int or not 0 <= length < 1 << 64:
        raise ValueError(f"{length!a:.80} bytes")
    return length


def _partition(report: _Report) -> Iterator[str]:
    partition = report["partition"]
    yield f"number {partition['number']}, at {_exact(partition['offset'])}"


def _snapshot(report: _Report) -> Iterator[str]:
    yield _snapshot_line(report["snapshot"])


def _snapshots(report: _Report) -> Iterator[str]:
    yield from map(_snapshot_line, report["snapshots"])


def _snapshot_line(snap: _Report) -> str:
    parts = [str(snap["name"]), f"id {snap['id']}", _exact(snap["size"])]
    parts += [_local(snap["time"])] if snap["time"] else []
    parts += ["protected"] if snap["protected"] else []
    parts += [f"of the {snap['namespace']}"] if snap["namespace"] != "user" else []
    return ", ".join(parts)


def _parents(report: _Report) -> Iterator[str]:
    for parent in report["parents"]:
        yield f"{_relative(parent)}, overlap {_exact(parent['overlap'])}"


def _children(report: _Report) -> Iterator[str]:
    for child in report["children"]:
        yield f"{_relative(child)}, of snapshot id {child['snapshot_id']}"


def _relative(image: _Report) -> str:
    parts = [str(image["spec"])]
    if image.get("in_trash"):
        parts.append(f"in the trash, was {image['image']}")
    if image.get("gone"):
        parts.append("gone")
    return ", ".join(parts)


def _users(part: str) -> Callable[[_Report], Iterator[str]]:
    def lines(report: _Report) -> Iterator[str]:
        for user in report[part]:
            parts = [f"{user['client']} at {user['address']}"]
            if "exclusive" in user:
                parts.append("exclusive" if user["exclusive"] else f"advisory ({user['cookie']})")
            parts += ["this mount"] if user["ours"] else []
            yield ", ".join(parts)

    return lines


def _migration(report: _Report) -> Iterator[str]:
    migration = report["migration"]
    if "role" not in migration:
        yield str(migration["state"])
    else:
        word = "to" if migration["role"] == "source" else "from"
        yield f"{migration['state']}, {word} {migration['other']}"


def _mirroring(report: _Report) -> Iterator[str]:
    mirroring = report["mirroring"]
    parts = [str(mirroring["state"])]
    if "mode" in mirroring:
        primary = "primary" if mirroring["primary"] else "not primary"
        parts += [str(mirroring["mode"]), primary, f"global id {mirroring['global_id']}"]
    yield ", ".join(parts)


def _open(report: _Report) -> Iterator[str]:
    use = report["open"]
    yield f"readers {use['readers']}, writers {use['writers']}"
    if use["failed"]:
        yield f"failed: {use['failed']}"


# Title, the part of the report that it is about, and how that is told.
_ROWS: tuple[tuple[str, str, Callable[[_Report], Iterator[str]]], ...] = (
    ("Type", "type", _type),
    ("Partition", "partition", _partition),
    ("Snapshot", "snapshot", _snapshot),
    ("Size", "size", _size),
    ("Provisioned", "provisioned", _exactly("provisioned")),
    ("Used", "used", _exactly("used")),
    ("Available", "available", _exactly("available")),
    ("Features", "features", _words("features")),
    ("Flags", "flags", _words("flags")),
    ("Data pool", "data_pool", _line("data_pool")),
    ("Created", "created", _moment("created")),
    ("Modified", "modified", _moment("modified")),
    ("Accessed", "accessed", _moment("accessed")),
    ("Parents", "parents", _parents),
    ("Children", "children", _children),
    ("Locks", "locks", _users("locks")),
    ("Watchers", "watchers", _users("watchers")),
    ("Open here", "open", _open),
    ("Group", "group", _line("group")),
    ("Migration", "migration", _migration),
    ("Mirroring", "mirroring", _mirroring),
    ("Encryption", "encryption", _line("encryption")),
    ("QEMU", "qemu", _line("qemu")),
    ("Snapshots", "snapshots", _snapshots),
)
