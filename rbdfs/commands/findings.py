"""What looks wrong in what `rbdfs debug` has found: lines for a person."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_NEAR = 0.8
# A keeper that is none may tell of ten thousands.
_MOST = 300
# The first release of Ceph that is still cared for.
_CEPH = 18


def findings(facts: dict[str, Any]) -> list[str]:
    """Return a line for each; nothing of what is in *facts* is taken on trust."""
    lines = [*_processes(facts), *_status(facts), *_kernel(facts)]
    health = facts.get("health")
    if isinstance(health, str) and not health.startswith("nothing"):
        lines.append(f"the cluster: {health}")
    told = [line[:500] for line in lines[:_MOST]]
    return told + [f"and {len(lines) - _MOST} more"] * (len(lines) > _MOST)


def _processes(facts: dict[str, Any]) -> Iterator[str]:
    if not facts.get("keeper"):
        yield "no keeper answers: the mount is dead, or another user's, or has datapath=python"
        return
    status = facts.get("status")
    if isinstance(status, dict) and status.get("state") == "given up":
        yield "given up: requests fail with EIO (`rbdfs restart` tries again)"
    elif not facts.get("server"):
        yield "no server: requests wait until one is started"
    for name in ("keeper", "server"):
        state = facts.get(f"{name}_state")
        if state in ("T", "t"):
            yield f"the {name} is stopped (SIGSTOP, or a debugger)"
        elif state == "D":
            yield f"the {name} hangs in the kernel"
        match facts.get(f"{name}_descriptors"):
            case (used, most) if used > _NEAR * most:
                yield f"the {name} has {used} of {most} descriptors open"
        if lost := sum(map(int, re.findall(r": (\d{1,9}) lines are missing", _log(facts, name)))):
            yield f"the {name} has dropped {lost} lines of its log"


def _log(facts: dict[str, Any], name: str) -> str:
    return str(facts.get(f"{name}_log", ""))


def _status(facts: dict[str, Any]) -> Iterator[str]:
    status = facts.get("status")
    if not isinstance(status, dict):
        if facts.get("keeper"):
            yield "no status: keeper or server do not answer"
        return
    if status.get("state") not in ("serving", "given up"):
        yield f"state: {_word(status.get('state'))}"
    if status.get("last_fault", "none") != "none":
        yield f"the last fault: {_word(status['last_fault'])}"
    for each in _dicts(status.get("waiting")):
        # The reason is asked for when it has waited for long.
        reason = f": {_word(each['reason'])}" if each.get("reason") else ""
        yield f"{_word(each.get('image'))} waits for {_word(each.get('seconds'))} s{reason}"
    for each in _dicts(status.get("files")):
        if each.get("error"):
            yield f"lost: {_word(each.get('spec'))}: {_word(each['error'])}"


def _word(found: object) -> str:
    # What is nested deep cannot even be written as a text.
    return str(found) if isinstance(found, str | int | float | None) else "?"


def _dicts(found: object) -> list[dict[str, Any]]:
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _kernel(facts: dict[str, Any]) -> Iterator[str]:
    waiting = str(facts.get("waiting", "")).strip()
    if waiting.isdigit() and int(waiting):
        yield f"the kernel waits for {waiting} requests"
    if str(facts.get("read_ahead_kb", "")).strip() == "0":
        yield "the kernel reads nothing ahead (read_ahead_kb is 0)"
    versions = facts.get("versions") or {}
    librbd = re.match(r"(\d+)\.", str(versions.get("packages", {}).get("librbd1", "")))
    if librbd and int(librbd[1]) < _CEPH:
        yield f"librbd is of Ceph {librbd[1]}, which nobody mends any more"
