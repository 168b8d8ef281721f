"""Who waits for a cluster that does not answer can be stopped: ^C, timeout, kill -9."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.conditions import eventually
from tests.support.images import MIB, import_image, random_bytes

if TYPE_CHECKING:
    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount

DATA = random_bytes(MIB)


def seconds_to_stop(command: list[str | Path], signum: int) -> float:
    """Send a signal to a command that waits for the mount: how long it takes to end."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    eventually(lambda: waits_for_fuse(process.pid), what=f"{command[0]} to wait")
    began = time.monotonic()
    process.send_signal(signum)
    process.wait(10)
    return time.monotonic() - began


def waits_for_fuse(pid: int) -> bool:
    return "request_wait_answer" in Path(f"/proc/{pid}/stack").read_text()


def test_who_waits_can_be_stopped(
    ceph: Ceph, pool: str, image_name: str, mount: Mount, native: None
) -> None:
    """dd has a handler for SIGINT, which is no end for the kernel: it gets EINTR after a second."""
    import_image(ceph, f"{pool}/{image_name}", DATA)
    path = mount.file(image_name)
    path.read_bytes()
    dd: list[str | Path] = ["dd", f"if={path}", "of=/dev/null", "iflag=direct", "bs=64k"]
    look: list[str | Path] = ["stat", mount.file("no-such-image")]
    with ceph.stalled("osd.0"):
        began = time.monotonic()
        for command in (dd, look):
            assert seconds_to_stop(command, signal.SIGKILL) < 1
        assert seconds_to_stop(dd, signal.SIGINT) < 3
        assert time.monotonic() - began < 11
    assert path.read_bytes() == DATA
