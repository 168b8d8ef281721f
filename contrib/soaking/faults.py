"""What befalls the first mount while the users are at work; in the end all is well again."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from soaking.bench import SoakError, eventually
from soaking.operations import Finding, Window
from soaking.user import closed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from soaking.bench import Bench, Mount
    from soaking.operations import Fault

# memstore loses nothing while its OSD stands still; above 12 s its pools may stay laggy.
LONGEST_STOP_S = 8.0
RECOVERY_S = 60.0
# rbdfs-failures(7): within 2 s also without a request.
NOTICE_S = 2.5


class Injector:
    """Brings the faults of a plan, one after the other.

    Attributes:
        windows: what was done, and when.
        findings: what did not work that has to: a restart, a new start.
        lost: nothing is mounted any more; the last window has no end then.
    """

    def __init__(
        self, bench: Bench, mount: Mount, gate: Path, disks: Sequence[str], faults: Sequence[Fault]
    ) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._bench, self._mount, self._gate = bench, mount, gate
        self._disks, self._faults = disks, faults
        self._over = threading.Event()
        self.windows: list[Window] = []
        self.findings: list[Finding] = []
        self.lost = False

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """No other fault, and the end of the one there is."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        for fault in self._faults:
            if self._over.wait(fault.delay_s):
                return
            inject: Callable[[Fault], None] = getattr(self, f"inject_{fault.kind}")
            start = time.monotonic()
            # Before it begins: what fails meanwhile is to be judged by it, whenever it ends.
            self.windows.append(Window(fault.kind, start, float("inf"), self._mount.number))
            try:
                inject(fault)
            except (SoakError, OSError) as exc:
                self.findings.append(Finding("fault", f"{fault.kind}: {exc}", detail=fault.kind))
            if self.lost:
                return
            self.windows[-1] = replace(self.windows[-1], end=time.monotonic())

    def inject_kill(self, fault: Fault) -> None:
        """The server is killed; the keeper starts another."""
        server = self._mount.server()
        if server is None:
            raise SoakError("there is no server to be killed")
        os.kill(server, signal.SIGKILL)
        self._wait_for_another(server)

    def _wait_for_another(self, server: int) -> None:
        def replaced() -> bool:
            return self._mount.server() not in (server, None) and self._mount.ready()

        if not eventually(replaced, RECOVERY_S):
            raise SoakError(f"no new server within {RECOVERY_S:.0f} s")

    def inject_restart(self, fault: Fault) -> None:
        self._mount.restart()

    def inject_crash(self, fault: Fault) -> None:
        """Keeper and server are killed; the mount is made again, as systemd would."""
        for pid in (self._mount.keeper, self._mount.server()):
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
        self._start()

    def inject_osd(self, fault: Fault) -> None:
        self._stand_still("osd.0", fault.seconds)

    def inject_mon(self, fault: Fault) -> None:
        self._stand_still("mon.a", fault.seconds)

    def _stand_still(self, daemon: str, seconds: float) -> None:
        pid = self._bench.daemon_pid(daemon)
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(min(seconds, LONGEST_STOP_S))
        finally:
            os.kill(pid, signal.SIGCONT)

    def inject_blocklist(self, fault: Fault) -> None:
        """The server's client is fenced by somebody else; an operator restarts the server."""
        watching = {address for disk in self._disks for address in self._bench.watchers(disk)}
        for address in watching - self._bench.blocklist():
            self._bench.ceph("osd", "blocklist", "add", address)
        time.sleep(NOTICE_S)
        self._mount.restart()

    def inject_remount(self, fault: Fault) -> None:
        """umount -l, and another mount in its place; who has files open goes on with them."""
        marker = closed(self._gate)
        marker.touch()
        try:
            with self._gate.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                self._mount.umount(lazily=True)
                self._start()
        finally:
            marker.unlink()

    def _start(self) -> None:
        try:
            self._mount.start()
        except SoakError:
            self.lost = True
            raise


KINDS = ("kill", "restart", "crash", "osd", "mon", "blocklist", "remount")
# With these, no call fails: requests wait, and then succeed.
HARMLESS = ("kill", "restart", "osd", "mon")
