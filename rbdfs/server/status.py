"""What a server says of itself when it is asked for its status."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rbdfs.files.freshness import Freshness
    from rbdfs.files.handle import Handle
    from rbdfs.files.table import HandleTable

# A status names no more files than these, nor than a message has room for, in bytes: a name may be
# all escapes, and what is wrong with a file may take some lines to say.
_REPORTED_FILES = 256
_REPORTED_BYTES = 80_000


def files_report(handles: HandleTable, freshness: Freshness) -> list[dict[str, Any]]:
    """Return what is open, as far as there is room for it."""
    files: list[dict[str, Any]] = []
    room = _REPORTED_BYTES
    for handle in itertools.islice(handles, _REPORTED_FILES):
        files.append(_report(handle, freshness))
        room -= len(json.dumps(files[-1]))
        if room < 0:
            files.pop()
            break
    return files


def _report(handle: Handle, freshness: Freshness) -> dict[str, Any]:
    shared = handle.shared
    return {
        "spec": handle.entry.spec,
        "writable": handle.writable,
        "locked": shared.image is not None and shared.image.lock_held,
        "waits_s": round(freshness.waits_s(shared), 1),
        "error": None if shared.error is None else str(shared.error),
    }
