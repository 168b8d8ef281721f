"""Holds a history to the promises of the manual; what breaks one is a finding."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from soaking.allowances import Allowances
from soaking.disks import Disk, Disks
from soaking.document_names import NamedDocuments
from soaking.names import Names
from soaking.operations import Finding, errno_name

if TYPE_CHECKING:
    from soaking.operations import Event, History

# What is known is told at once, whatever the cluster does; the rest is for a busy machine.
KNOWN_S = 4.0
# What a record of the log begins with, and which ones no fault explains.
_TRACEBACK = re.compile(r"^Traceback .*?^(?=\w)[^\n]*", re.MULTILINE | re.DOTALL)


def check(history: History, disks: tuple[Disk, ...], patience: float = 1.0) -> list[Finding]:
    """All findings of a history, those included that were made while it was played.

    With *patience* everything may take so many times as long.
    """
    allowances = Allowances(history.windows, patience)
    names = Names(allowances)
    shared = Disks(disks, allowances)
    users: dict[int, NamedDocuments] = {}
    listings = []
    for event in sorted(history.events, key=lambda event: event.end):
        if event.operation.kind == "listing":
            listings.append(event)
        elif shared.concerns(event):
            shared.follow(event)
        else:
            documents = users.get(event.user)
            if documents is None:
                documents = users[event.user] = NamedDocuments(event.user, allowances, names)
            documents.follow(event)
    findings = list(history.findings)
    for listing in listings:
        names.observe(listing)
        findings += _refused(listing, allowances)
    findings += _slow(history, KNOWN_S * patience)
    _compare_exports(history, disks, shared, users)
    for documents in users.values():
        findings += documents.findings
    return findings + shared.judge() + names.findings()


def _refused(event: Event, allowances: Allowances) -> list[Finding]:
    if event.errno is None or allowances.allows(event):
        return []
    detail = f"listing {errno_name(event.errno)}"
    story = event.operation.story
    return [Finding("wrong answer", str(event), story, detail, event.user, event.index)]


def _slow(history: History, known_s: float) -> list[Finding]:
    """Looks at what was known that had to wait for an OSD or a monitor that stood still."""
    known: dict[tuple[int, str], float] = {}
    found = []
    for event in sorted(history.events, key=lambda event: event.end):
        if event.operation.kind not in ("stat", "listing"):
            continue
        place = event.mount, event.operation.args["path"]
        if event.end - event.start > known_s and known.get(place, math.inf) < event.start:
            kinds = {
                window.kind
                for window in history.windows
                if window.start < event.end and window.end > event.start
            }
            if kinds and kinds <= {"osd", "mon"}:
                took = f"{event.operation} of user {event.user}: {event.end - event.start:.1f} s"
                story, detail = event.operation.story, event.operation.kind
                found.append(Finding("slow", took, story, detail, event.user, event.index))
        if event.errno is None:
            known[place] = event.end
    return found


def _compare_exports(
    history: History, disks: tuple[Disk, ...], shared: Disks, users: dict[int, NamedDocuments]
) -> None:
    if not history.exports:
        # It did not come to its end.
        return
    end = max((event.end for event in history.events), default=0.0)
    for disk in disks:
        shared.exported(disk.path, history.exports.get(disk.path), end)
    for documents in users.values():
        for path, document in documents.folder.documents.items():
            documents.exported(path, history.exports.get(path))
            for snap in document.snapshots:
                full = f"{path}@{snap}"
                documents.exported(full, history.exports.get(full))


def check_log(text: str) -> list[Finding]:
    """Unexpected exceptions in the log of rbdfs: each kind once."""
    last_lines = {trace.splitlines()[-1] for trace in _TRACEBACK.findall(text)}
    return [
        Finding("traceback", f"in the log of rbdfs: {line}", "the log", line.partition(":")[0])
        for line in sorted(last_lines)
    ]
