"""Who keeps a mount busy, as far as the caller may see: processes, loop devices, other mounts.

No file system is asked, this mount's least of all: place() looks at what /proc leads to.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rbdfs.kernel.mount import entries, place

if TYPE_CHECKING:
    from collections.abc import Iterator

_LINKS = {"cwd": "working directory", "root": "root directory", "exe": "program"}


@dataclass(frozen=True, slots=True)
class Process:
    """A process that has something of a mount.

    Attributes:
        command: its name, as ps(1) has it.
        uses: what it has: open files, and the like.
    """

    pid: int
    command: str
    uses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Users:
    """Who uses a mount.

    Attributes:
        loop_devices: names of those that are backed by a file of it.
        mounts: mount points below its own.
        hidden: whether there are processes that the caller may not look at.
    """

    processes: tuple[Process, ...]
    loop_devices: tuple[str, ...]
    mounts: tuple[str, ...]
    hidden: bool

    def record(self) -> dict[str, Any]:
        """Return them fit for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        found = [
            *(f"{each.pid} ({each.command}: {', '.join(each.uses)})" for each in self.processes),
            *self.loop_devices,
            *(f"what is mounted on {path!a}" for path in self.mounts),
        ]
        if self.hidden:
            found.append("processes that are not yours to see")
        return "; ".join(found) or "somebody who has gone meanwhile"


def users_of(mountpoint: str, device: str) -> Users:
    """Return who uses the mount of this MAJOR:MINOR."""
    processes, hidden = [], False
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            uses = tuple(_uses(f"/proc/{pid}", device))
        except PermissionError:
            hidden = True
        except OSError:
            continue  # It has ended.
        else:
            if uses:
                processes.append(Process(pid, _command(pid), uses))
    below = mountpoint.rstrip("/") + "/"
    return Users(
        tuple(processes),
        tuple(_loop_devices(mountpoint, below)),
        tuple(entry.mountpoint for entry in entries() if entry.mountpoint.startswith(below)),
        hidden and not processes,
    )


def _uses(directory: str, device: str) -> Iterator[str]:
    """Yield what a process has of the mount; raise PermissionError where it cannot be told."""
    for name, use in _LINKS.items():
        if _is_on(f"{directory}/{name}", device):
            yield use
    count = sum(_is_on(f"{directory}/fd/{name}", device) for name in os.listdir(f"{directory}/fd"))
    if count:
        yield "1 open file" if count == 1 else f"{count} open files"
    major, minor = (int(number) for number in device.split(":"))
    mapped = re.compile(rf"^\S+ \S+ \S+ {major:02x}:{minor:02x} ", re.MULTILINE)
    with open(f"{directory}/maps", encoding="utf-8", errors="surrogateescape") as maps:
        if mapped.search(maps.read()):
            yield "mapped file"


def _is_on(path: str, device: str) -> bool:
    # It may be closed by now; a kernel thread has no program.
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return place(path, follow=True).device == device
    return False


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    return "?"


def _loop_devices(mountpoint: str, below: str) -> Iterator[str]:
    for path in sorted(Path("/sys/block").glob("loop*/loop/backing_file")):
        # It may be detached by now.
        with contextlib.suppress(OSError):
            backing = os.fsdecode(path.read_bytes()).rstrip("\n")
            if backing == mountpoint or backing.startswith(below):
                yield f"/dev/{path.parts[3]}"
