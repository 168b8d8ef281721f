"""Mount namespaces: what a test mounts there, nobody else sees, and it is gone with the test."""

from __future__ import annotations

import contextlib
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.mounts import TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Iterator


# A copy of the mount of another test would keep its server from ending after umount.
WITHOUT_MOUNTS_OF_OTHERS = """
awk '$3 == "fuse.rbdfs" {print $2}' /proc/self/mounts | while read -r path; do
    umount -l "$(printf %b "$path")" || true
done
"""


def in_fstab(path: Path) -> str:
    """A path as fstab(5) and /proc/PID/mountinfo have it."""
    return str(path).replace(" ", "\\040")


@dataclass(frozen=True)
class Namespace:
    """A mount namespace that process `holder` keeps."""

    holder: int

    @property
    def prefix(self) -> list[str]:
        """What a command is preceded by to run in it."""
        return ["nsenter", f"--mount=/proc/{self.holder}/ns/mnt"]

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.prefix, *map(str, command)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            cwd="/",
        )

    def mount(self, source: str, path: Path, options: str) -> subprocess.CompletedProcess[str]:
        """What mount(8) makes of it."""
        return self.run("mount", "-t", "fuse.rbdfs", "-o", options, source, path)

    def path(self, path: Path) -> Path:
        """Where to find a path of the namespace from outside."""
        return Path(f"/proc/{self.holder}/root{path}")

    def mounted(self, path: Path) -> bool:
        mounts = Path(f"/proc/{self.holder}/mountinfo").read_text().splitlines()
        return in_fstab(path) in [line.split(" ")[4] for line in mounts]

    def flags(self, path: Path) -> set[str]:
        """What /proc/mounts says of the mount on a path."""
        shown = self.run("findmnt", "-n", "--kernel", "-o", "OPTIONS", path)
        return set(shown.stdout.strip().split(","))


@contextlib.contextmanager
def namespace(setup: str) -> Iterator[Namespace]:
    """A new namespace, after the shell has run `setup` in it."""
    script = f"{{ {setup}; }} && echo ready && exec sleep infinity"
    command = ["unshare", "--mount", "--propagation=private", "sh", "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"ready\n"
            yield Namespace(holder.pid)
        finally:
            holder.kill()
