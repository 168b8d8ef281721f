"""``rbdfs mounts``: the mounts of rbdfs in this mount namespace, and how each is doing."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rbdfs.errors import UserError
from rbdfs.keeper.command_client import Gone, NoKeeper, Silent, ask_keeper
from rbdfs.kernel.mount import Entry, rbdfs_entries
from rbdfs.kernel.mountpoint import ALIVE, DEAD, life
from rbdfs.model.printable import printable

# How long a keeper, and a mount without one, may take to answer, in seconds.
_ANSWER_S = 2.0
_AT_ONCE = 64
# What a keeper says of itself, which may be anybody's. No other word of it is told.
_STATES = ("serving", "no server", "given up")


def mounts() -> list[dict[str, Any]]:
    """Return source, mountpoint, state, keeper and open_files of each, as far as they are known.

    One that hangs is told of as the others are, after some seconds.
    """
    found = list(rbdfs_entries())
    if not found:
        return []
    with ThreadPoolExecutor(min(len(found), _AT_ONCE)) as threads:
        return list(threads.map(_described, found))


def table(facts: list[dict[str, Any]]) -> str:
    """Return the lines that a person reads."""
    rows = [("SOURCE", "MOUNT POINT", "STATE", "OPEN FILES")] if facts else []
    for each in facts:
        files = "-" if each["open_files"] is None else str(each["open_files"])
        rows.append(
            (printable(each["source"]), printable(each["mountpoint"]), each["state"], files)
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        + "\n"
        for row in rows
    )


def _described(entry: Entry) -> dict[str, Any]:
    answer: dict[str, Any] = {}
    try:
        answer = ask_keeper(entry.mountpoint, entry, "status", _ANSWER_S)
        state = state_of(answer)
    except Silent:
        state = "no answer"
    except (Gone, NoKeeper) as exc:
        state = _without_keeper(entry, gone=isinstance(exc, Gone))
    except UserError:
        state = "unknown"
    return {
        "source": entry.source,
        "mountpoint": entry.mountpoint,
        "state": state,
        "keeper": answer.get("keeper"),
        "open_files": _open_files(answer),
    }


def state_of(answer: dict[str, Any]) -> str:
    """Return how a mount is doing by what its keeper has answered."""
    # While one is started, there is a server that does not serve.
    starting = answer["state"] == "no server" and answer.get("server") is not None
    if starting:
        return "restarting"
    return str(answer["state"]) if answer["state"] in _STATES else "unknown"


def _open_files(answer: dict[str, Any]) -> int | None:
    files = answer.get("open_files")
    # A bool is an int to isinstance().
    return files if type(files) is int and 0 <= files < 1 << 31 else None


def _without_keeper(entry: Entry, *, gone: bool) -> str:
    """Return the state of a mount that no keeper answers for, as with datapath=python."""
    if entry.owner != os.geteuid() and not entry.shared:
        # The kernel asks its server for nobody else, root included.
        return "dead" if gone else "unknown"
    states = {ALIVE: "serving", DEAD: "dead", None: "no answer"}
    return states[life(entry.mountpoint, _ANSWER_S)]
