"""What is mounted, as the kernel tells of it, whatever mount points are called."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from rbdfs.kernel.mount import Entry, parsed_entry

if TYPE_CHECKING:
    from pathlib import Path

# Those that the kernel escapes, and those that Python takes for the end of a line.
NAMES = [
    "a b",
    "a\tb",
    "a\nb",
    "a\\b",
    "a\\040b",
    "a\rb",
    "a\x0b\x0c\x1cb",
    "a\x85\u2028b",
    "a - b",
]

LIST = """
import os, sys
from rbdfs.kernel.mount import entries
sys.stdout.buffer.write(b"\\0".join(os.fsencode(entry.mountpoint) for entry in entries()))
"""


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_any_mount_point(tmp_path: Path, name: str) -> None:
    """Any user may mount FUSE on a directory of his, and must not hide the mounts of others."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount")
    directory = tmp_path / name
    directory.mkdir()
    # In a mount namespace of its own: nobody else is to trip over it.
    script = 'mount -t tmpfs rbdfs-test "$0" && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", script, str(directory), sys.executable, "-c", LIST]
    found = subprocess.run(command, capture_output=True, timeout=30, check=False)
    assert found.returncode == 0, found.stderr.decode()
    assert os.fsencode(directory) in found.stdout.split(b"\0")
    assert b"/proc" in found.stdout.split(b"\0")


def test_a_line() -> None:
    line = r"36 35 0:61 / /m\040\134040 rw shared:1 master:2 - fuse.rbdfs r\040c rw,user_id=1000"
    assert parsed_entry(line) == Entry(
        36, "0:61", r"/m \040", "fuse.rbdfs", 1000, shared=False, source="r c"
    )
    assert parsed_entry(f"{line},allow_other").shared
    assert parsed_entry("1 1 0:1 / / rw - tmpfs  rw,user_id=3") == Entry(
        1, "0:1", "/", "tmpfs", None, shared=False, source=""
    )
