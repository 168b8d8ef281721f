"""The tree of Trio's tasks, as text: what each waits for."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from collections.abc import Iterator

_FRAMES = 12


def task_tree(room: int) -> str:
    """Return the tasks of this run, those that are alike once; cut off after *room* characters."""
    root = trio.lowlevel.current_root_task()
    lines: list[str] = []
    length = 0
    for line in () if root is None else _lines(root, 1, 0):
        length += len(line) + 1
        if length > room:
            lines.append("(more is left out)")
            break
        lines.append(line)
    return "\n".join(lines)


def _lines(task: trio.lowlevel.Task, count: int, depth: int) -> Iterator[str]:
    indent = "  " * depth
    yield f"{indent}{task.name}" + (f" ({count} alike)" if count > 1 else "")
    for frame in _frames(task):
        yield f"{indent}    {frame}"
    for nursery in task.child_nurseries:
        children = {_likeness(child): child for child in nursery.child_tasks}
        counts = Counter(map(_likeness, nursery.child_tasks))
        for likeness, child in children.items():
            yield from _lines(child, counts[likeness], depth + 1)


def _likeness(task: trio.lowlevel.Task) -> object:
    # One that has children is like no other.
    return (task.name, tuple(_frames(task)), id(task) if task.child_nurseries else 0)


def _frames(task: trio.lowlevel.Task) -> list[str]:
    found = []
    awaited: Any = task.coro
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if frame is not None:
            code = frame.f_code
            found.append(f"{code.co_filename}:{frame.f_lineno} {code.co_name}")
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
    return found[-_FRAMES:]
