"""Loop devices."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from tests.support.ceph import run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def loop_device(path: Path, *options: str) -> Iterator[str]:
    """The path of a loop device on a file, with these options of losetup(8)."""
    device = run("losetup", "--find", "--show", *options, str(path)).strip()
    try:
        yield device
    finally:
        run("losetup", "--detach", device)
