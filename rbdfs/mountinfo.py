"""What is mounted, as /proc/self/mountinfo tells it without touching any mount."""

from __future__ import annotations

import os
import re

_OCTAL = re.compile(r"\\([0-7]{3})")
_MOUNT_POINT = 4


def is_mounted(path: str) -> bool:
    """Tell whether something is mounted exactly on absolute *path*, alive or dead."""
    # Symbolic links above the last part only: resolving that would ask a dead server.
    parent, name = os.path.split(path.rstrip("/"))
    wanted = os.path.join(os.path.realpath(parent), name)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
        return any(_unescape(line.split(" ")[_MOUNT_POINT]) == wanted for line in mounts)


def _unescape(field: str) -> str:
    """Undo the octal escapes of space, tab, newline and backslash."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), field)
