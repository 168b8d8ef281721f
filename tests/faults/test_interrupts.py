"""Who waits for a cluster that does not answer can be stopped: ^C, timeout, kill -9."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.conditions import eventually
from tests.support.images import MIB, import_image, random_bytes
from tests.support.mounts import opened
from tests.support.servers import ask

if TYPE_CHECKING:
    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount

DATA = random_bytes(MIB)


def waiting(command: list[str | Path], stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    """A command that waits for the mount."""
    process = subprocess.Popen(
        command, stdin=stdin, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    eventually(lambda: waits_for_fuse(process.pid), what=f"{command[0]} to wait")
    return process


def waits_for_fuse(pid: int) -> bool:
    return "request_wait_answer" in Path(f"/proc/{pid}/stack").read_text()


def stop(process: subprocess.Popen[bytes], signum: int) -> None:
    """Send a signal to a process, and see it end although the cluster does not answer."""
    process.send_signal(signum)
    process.wait(30)


def waits_s(mount: Mount) -> float:
    """For how long the open file has waited, as the status tells."""
    return max(float(each["waits_s"]) for each in ask(mount, "status")["files"])


def test_who_waits_can_be_stopped(
    ceph: Ceph, pool: str, image_name: str, mount: Mount, native: None
) -> None:
    """dd has a handler for SIGINT, which is no end for the kernel: it gets EINTR after a second.

    Its close then asks whether the file is there, and gives up: it is known who does not answer.
    """
    import_image(ceph, f"{pool}/{image_name}", DATA)
    path = mount.file(image_name)
    mount.expect_log("flush: .* the cluster does not say whether it is there")
    open_dd: list[str | Path] = ["dd", f"if={path}", "of=/dev/null", "iflag=direct", "bs=64k"]
    read_dd: list[str | Path] = ["dd", "of=/dev/null", "iflag=direct", "bs=64k"]
    look: list[str | Path] = ["stat", mount.file("no-such-image")]
    with contextlib.ExitStack() as stack:
        # Two of them: a read of a descriptor waits for another's.
        files = [stack.enter_context(opened(path, os.O_RDONLY)) for _ in range(2)]
        stack.enter_context(ceph.stalled("osd.0"))
        reads = [waiting(read_dd, file) for file in files]
        others = [waiting(command) for command in (open_dd, look)]
        # So long a close waits for who has not been asked before (files/freshness.confirm).
        eventually(lambda: waits_s(mount) > 5, 10.0, "a look that waits for long")
        for process in (reads[0], *others):
            stop(process, signal.SIGKILL)
        stop(reads[1], signal.SIGINT)
    assert path.read_bytes() == DATA
