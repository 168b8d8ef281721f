"""What `rbdfs stat` is told of a file: under which name it is asked for, and how long it may be."""

from __future__ import annotations

import json
from typing import Any

ATTRIBUTE = b"user.rbdfs.stat"
"""The extended attribute that has the report of a file or directory, as JSON.

It is never listed: `cp -a` and `rsync -X` would copy it. That it begins with ``user.`` has the
kernel ask for permission to read the file. The report is an object. What is null in it is not
known: ``not_known`` has the reasons by name. ``left_out`` has how many a list has lost.
"""

REPORT_BYTES = 65536
"""How long the kernel lets an attribute be (XATTR_SIZE_MAX)."""


def encoded_report(report: dict[str, Any]) -> bytes:
    """Return *report* as JSON of at most REPORT_BYTES, its lists cut off where it would be longer.

    Of the list that takes most an eighth is left out at a time; what is left out is added to
    ``left_out``.
    """
    report = report | {"left_out": dict(report["left_out"])}
    while len(data := _json(report)) > REPORT_BYTES:
        lengths = {name: len(_json(each)) for name, each in report.items() if _is_cuttable(each)}
        longest = max(lengths, key=lambda name: lengths[name])
        lost = max(len(report[longest]) // 8, 1)
        report["left_out"][longest] = report["left_out"].get(longest, 0) + lost
        report[longest] = report[longest][:-lost]
    return data


def _is_cuttable(value: object) -> bool:
    return isinstance(value, list) and bool(value)


def _json(value: object) -> bytes:
    # ASCII alone, with escapes for whatever a name has in it.
    return json.dumps(value, separators=(",", ":")).encode("ascii")
