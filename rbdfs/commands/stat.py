"""``rbdfs stat``: what is behind files of a mount."""

from __future__ import annotations

import errno
import json
import sys
from typing import TYPE_CHECKING, Any

from rbdfs.commands.file_text import report_text
from rbdfs.commands.mounted_file import mount_of
from rbdfs.commands.output import print_json
from rbdfs.errors import EXIT_FAILURE, UserError
from rbdfs.kernel.attributes import read_attribute
from rbdfs.model.file_report import ATTRIBUTE, REPORT_BYTES

if TYPE_CHECKING:
    from rbdfs.config.command_line import Request


def run(request: Request) -> int:
    """Print what is known of each file; raise UserError where it is one and cannot be asked."""
    if len(request.operands) == 1:
        report = _report(request.operand)
        if request.json:
            print_json(report)
        else:
            print(_text(report), end="")
        return 0
    reports, code = [], 0
    for number, path in enumerate(request.operands):
        try:
            reports.append(report := _report(path))
            text = "" if request.json else _text(report)
        except UserError as exc:
            # The others are told of all the same, as stat(1) does.
            print(f"rbdfs: {exc}", file=sys.stderr)
            reports.append({"file": path, "error": str(exc)})
            code = EXIT_FAILURE
        else:
            print("\n" if number and text else "", text, sep="", end="")
    if request.json:
        print_json(reports)
    return code


def _report(path: str) -> dict[str, Any]:
    mount = mount_of(path)
    try:
        value = read_attribute(path, ATTRIBUTE, REPORT_BYTES)
    except OSError as exc:
        if exc.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            hint = f"rbdfs restart {mount.mountpoint}"
            raise UserError(f"{path!a}: its server is of an older version ({hint!a})") from exc
        raise UserError(f"{path!a}: {exc.strerror}") from exc
    try:
        report = json.loads(value)
    except (ValueError, RecursionError):
        report = None
    if not isinstance(report, dict):
        raise UserError(f"{path!a}: what its server says is no answer")
    # First, and not as the server may say it.
    where = {"file": path, "mountpoint": mount.mountpoint}
    return where | report | where


def _text(report: dict[str, Any]) -> str:
    try:
        return report_text(report)
    # Anybody may have mounted it, and say anything.
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as exc:
        raise UserError(f"{report['file']!a}: what its server says is no answer") from exc
