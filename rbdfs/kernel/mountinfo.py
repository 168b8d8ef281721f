"""What is mounted, as /proc/self/mountinfo tells it without touching any mount."""

from __future__ import annotations

import os
import re

_OCTAL = re.compile(r"\\([0-7]{3})")
_DEVICE = 2
_MOUNT_POINT = 4


def is_mounted(path: str) -> bool:
    """Tell whether something is mounted exactly on absolute *path*, alive or dead."""
    return device_number(path) is not None


def device_number(path: str) -> str | None:
    """Return ``MAJOR:MINOR`` of what is mounted on *path* last, or None where nothing is."""
    # Symbolic links above the last part only: resolving that would ask a dead server.
    parent, name = os.path.split(path.rstrip("/"))
    wanted = os.path.join(os.path.realpath(parent), name)
    found = None
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
        for line in mounts:
            fields = line.split(" ")
            if _unescape(fields[_MOUNT_POINT]) == wanted:
                found = fields[_DEVICE]
    return found


def _unescape(field: str) -> str:
    """Undo the octal escapes of space, tab, newline and backslash."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), field)
