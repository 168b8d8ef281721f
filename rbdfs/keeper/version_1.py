"""How the keeper of version 1 speaks: of the servers that came before messages had a number.

After an upgrade such a keeper goes on, with servers of this version. It hands over the command
line where there are options now, knows one kind of record, by the file handle in it, and dies of
events and fields that it does not know.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rbdfs.config.command_line import parse_arguments

# Moves were kept by numbers below those of directories, which are the negative file handles.
_MOVES = -(1 << 62)


def upgraded(state: dict[str, Any]) -> dict[str, Any]:
    """Return *state*, with which a keeper of version 1 starts a server, as an Estate's record.

    Raises UserError where its command line makes no sense (any more).
    """
    options = parse_arguments(state["arguments"], Path(state["directory"]))
    records: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for handle in state["handles"]:
        kind, number, record = _record(handle)
        records.setdefault(kind, []).append((number, record))
    return {
        "options": options.record(),
        "fuse": state["fuse"],
        "init": state["init"],
        "addresses": state["addresses"],
        "fenced": state["fenced"],
        "records": records,
        "crashed": state["crashed"],
    }


def _record(handle: dict[str, Any]) -> tuple[str, int, dict[str, Any]]:
    if "kind" in handle:
        return handle["kind"], handle["number"], handle["record"]
    if "move" in handle:
        return "move", handle["number"], handle["move"]
    if "directory" in handle:
        record = {"inode": handle["inode"], "entry": handle["directory"]}
        record["request"] = handle.get("request", 0)
        return "directory", -handle["fh"], record
    return "file", handle["fh"], {name: handle[name] for name in handle if name != "fh"}


def remembering(kind: str, number: int, record: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of the event ``left`` that have such a keeper remember a record."""
    handle: dict[str, Any] = {"fh": _handle_number(kind, number)}
    if kind == "file":
        handle |= record
    elif kind == "directory":
        handle |= {"inode": record["inode"], "directory": record["entry"]}
        handle["request"] = record["request"]
    elif kind == "move":
        handle |= {"number": number, "move": record}
    else:
        # It does not look at what it keeps, and servers of version 1 pass over it.
        handle |= {"kind": kind, "number": number, "record": record}
    return {"opened": handle}


def forgetting(kind: str, number: int) -> dict[str, Any]:
    """Return the fields of the event ``left`` that have such a keeper forget a record."""
    return {"released": _handle_number(kind, number)}


def _handle_number(kind: str, number: int) -> int:
    if kind == "file":
        return number
    if kind == "directory":
        return -number
    if kind == "move":
        return _MOVES - number
    # Below all of those, and other numbers for each kind.
    return -(int.from_bytes(kind.encode()) << 64 | number)
