"""The server process of a mount with a keeper: found, asked for, killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.conditions import eventually
from tests.support.mounts import RBDFS, wait_for_end

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount

COMMAND_TIMEOUT_S = 70.0
_LAGGY_S = 5.0


def ask(mount: Mount, command: str) -> dict[str, Any]:
    """What `rbdfs status MNT` or `rbdfs restart MNT` prints."""
    done = subprocess.run(
        [str(RBDFS), command, str(mount.path)],
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def server_of(mount: Mount) -> int | None:
    """The process that serves a mount, or starts to; None while there is none."""
    children = Path(f"/proc/{mount.pid}/task/{mount.pid}/children").read_text().split()
    # Not before it is a program of its own: until then the keeper waits for it, and does nothing.
    return int(children[0]) if children and is_server(int(children[0])) else None


def is_server(pid: int) -> bool:
    try:
        return b"\0rbdfs.server\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


def signal_server(mount: Mount, signum: signal.Signals, after: int | None = None) -> int:
    """Send a signal to the server of a mount, and return its process id.

    With `after`, the process id of a server that was killed, to its successor.
    """

    def server() -> int | None:
        pid = server_of(mount)
        return None if pid == after else pid

    pid = eventually(server, what="a server")
    assert pid is not None
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signum)
    return pid


def kill_server(mount: Mount) -> int:
    """Kill the server of a mount and wait for its end; return what its process id was."""
    pid = signal_server(mount, signal.SIGKILL)
    wait_for_end(pid)
    return pid


def kill_keeper_and_server(mount: Mount) -> None:
    """Kill both, and wait for their ends. Neither can do anything about the death of the other."""
    server = server_of(mount)
    assert server is not None
    # A server without a keeper would close and trim what is open.
    os.kill(mount.pid, signal.SIGSTOP)
    os.kill(server, signal.SIGKILL)
    mount.signal_all(signal.SIGKILL)
    for pid in (mount.pid, server):
        wait_for_end(pid)


def wait_for_server(mount: Mount, generation: int, timeout: float = 20.0) -> None:
    """Wait until this generation of a mount's servers is ready."""
    text = f"server {generation} is ready"
    eventually(lambda: text in mount.log_text, timeout, what=text)


def killed_server(mount: Mount, generation: int = 2) -> None:
    """Kill the server of a mount, and wait for its successor, of this generation."""
    kill_server(mount)
    wait_for_server(mount, generation)
    mount.expect_log(rf"ERROR .*server {generation - 1} was killed \(signal 9\)")


@contextlib.contextmanager
def standing_still(ceph: Ceph, osd: int) -> Iterator[None]:
    """An OSD that does nothing for the time of the block: at most 12 s for the only one."""
    daemon, begun = f"osd.{osd}", time.monotonic()
    try:
        with ceph.stalled(daemon):
            yield
    finally:
        if time.monotonic() - begun > _LAGGY_S:
            # Its placement groups would stay laggy. Not oftener than needed: an OSD that is told so
            # five times in ten minutes ends (osd_max_markdown_count).
            ceph.ceph("osd", "down", str(osd))


@contextlib.contextmanager
def repeatedly(action: Callable[[], object], period_s: float) -> Iterator[list[float]]:
    """Do something again and again beside the block; yield how long each time took, in seconds."""
    over = threading.Event()
    took: list[float] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            while not over.wait(period_s):
                begun = time.monotonic()
                action()
                took.append(time.monotonic() - begun)
        except BaseException as exc:
            failures.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield took
    finally:
        over.set()
        thread.join()
    if failures:
        raise failures[0]
