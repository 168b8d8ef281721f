"""Paths as they were given, made absolute: a daemon leaves the directory they are relative to."""

from __future__ import annotations

import os
from pathlib import Path

from rbdfs.errors import UserError


def absolute(path: str | Path, directory: Path | None = None) -> str:
    """Return *path*, below *directory* (None: the working directory) where it is relative.

    Raises UserError where the working directory has gone, as below a mount that was detached;
    nobody asks for it otherwise.
    """
    # os.path, not Path: "" and a trailing slash are the user's, to be told of. Nor abspath(): what
    # is above a symbolic link only the kernel knows.
    if os.path.isabs(path):
        return os.fspath(path)
    try:
        return os.path.join((directory or Path()).absolute(), path)
    except OSError as exc:
        raise UserError(
            f"{os.fspath(path)!a} is relative, and the working directory is not to be found:"
            f" {exc.strerror}"
        ) from exc
