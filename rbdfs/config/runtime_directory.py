"""The directory for what processes of one user leave for each other while the host is up."""

from __future__ import annotations

import os
import stat
from pathlib import Path

# Of root; what systemd makes for a unit that says RuntimeDirectory=rbdfs/NAME lies in it.
ROOT_DIRECTORY = Path("/run/rbdfs")


def runtime_directory() -> Path | None:
    """Return the directory, made if need be; None where there is none that is this user's alone.

    For root it is /run/rbdfs. For everybody else it is what systemd has made for the unit below
    that, else $XDG_RUNTIME_DIR/rbdfs, else one in /run/user or /tmp.
    """
    path = _path()
    try:
        # Root's has to be passed through by the users of units; nothing in it is for them.
        path.mkdir(0o711 if path == ROOT_DIRECTORY else 0o700, exist_ok=True)
        status = path.lstat()
    except OSError:
        return None
    private = stat.S_ISDIR(status.st_mode) and not status.st_mode & 0o022
    return path if private and status.st_uid == os.geteuid() else None


def directories_of(uid: int) -> list[Path]:
    """Return where the runtime directory of a user may be, as far as others can tell."""
    try:
        units = sorted(unit for unit in ROOT_DIRECTORY.iterdir() if unit.is_dir())
    except OSError:
        units = []
    return [ROOT_DIRECTORY, Path(f"/run/user/{uid}/rbdfs"), Path(f"/tmp/rbdfs-{uid}"), *units]


def _path() -> Path:
    uid = os.geteuid()
    if uid == 0:
        return ROOT_DIRECTORY
    unit = Path(os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0])
    if unit.parent == ROOT_DIRECTORY:
        return unit
    session = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{uid}")
    # Of a user who has not logged in: cron, su, a unit that says nothing of it.
    return session / "rbdfs" if session.is_dir() else Path(f"/tmp/rbdfs-{uid}")
