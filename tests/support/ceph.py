"""A throw-away Ceph cluster for tests: what `contrib/cluster` makes, and its command line tools."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rados import Rados

from tests.support.conditions import eventually, is_stopped

if TYPE_CHECKING:
    from collections.abc import Iterator

SCRIPT = Path(__file__).resolve().parents[2] / "contrib" / "cluster"
TIMEOUT_S = 60.0


class CommandError(Exception):
    """A command ended with an error; its message has what it printed on stderr."""

    def __init__(self, args: list[str], returncode: int, stderr: str) -> None:
        super().__init__(f"{' '.join(args)}: exit code {returncode}: {stderr.strip()}")
        self.returncode = returncode
        self.stderr = stderr


def run(*args: str, stdin: bytes | None = None) -> str:
    """The output of a command; CommandError, or TimeoutExpired after a minute."""
    done = subprocess.run(args, input=stdin or b"", capture_output=True, timeout=TIMEOUT_S)
    if done.returncode:
        raise CommandError(list(args), done.returncode, os.fsdecode(done.stderr))
    return os.fsdecode(done.stdout)


@dataclass(frozen=True)
class Ceph:
    """The cluster in one directory."""

    dir: Path

    @classmethod
    def start(cls, dir: Path, *, objectstore: str = "memstore", osds: int = 1) -> Ceph:
        """Start a cluster in a directory that is empty or not there; it serves when this returns.

        With memstore an OSD that ends loses its objects: use bluestore to restart one.
        """
        run(str(SCRIPT), "start", f"--objectstore={objectstore}", f"--osds={osds}", str(dir))
        return cls(dir)

    def stop(self) -> None:
        run(str(SCRIPT), "stop", str(self.dir))

    @property
    def conf(self) -> Path:
        return self.dir / "ceph.conf"

    def keyring(self, user: str) -> Path:
        """The keyring of a user: admin, rw (all of rbd) or ro (rbd read-only)."""
        return self.dir / f"client.{user}.keyring"

    # The parameter has the name that subprocess and `rbd --id` give it.
    def rbd(self, *args: str, input: bytes | None = None, id: str = "admin") -> str:
        return run("rbd", "-c", str(self.conf), "--id", id, *args, stdin=input)

    def ceph(self, *args: str) -> str:
        return run("ceph", "-c", str(self.conf), *args)

    def rados(self, *args: str, input: bytes | None = None) -> str:
        return run("rados", "-c", str(self.conf), *args, stdin=input)

    def _rbd_json(self, *args: str) -> Any:
        return json.loads(self.rbd(*args, "--format=json"))

    def watchers(self, spec: str) -> list[str]:
        """The client addresses (`127.0.0.1:0/NONCE`) that watch an image, rbd's own not among them.

        Every client that has the image open for writing is one.
        """
        return [watcher["address"] for watcher in self._rbd_json("status", spec)["watchers"]]

    def lock_owners(self, spec: str) -> list[str]:
        """The addresses of the clients that hold the image's lock."""
        return [lock["address"] for lock in self._rbd_json("lock", "ls", spec)]

    def lock_ids(self, spec: str) -> list[str]:
        """The clients that hold the image's lock, as `rbd lock rm` wants them."""
        return [lock["locker"] for lock in self._rbd_json("lock", "ls", spec)]

    @contextlib.contextmanager
    def temporary_pool(self, kind: str = "pool", *, application: bool = True) -> Iterator[str]:
        """The name, which begins with `kind`, of a pool for the time of the block (made in 0.4 s).

        Without the application it is not one of those that are meant for RBD.
        """
        name = f"{kind}-{uuid.uuid4().hex[:8]}"
        self.ceph("osd", "pool", "create", name)
        try:
            if application:
                self.rbd("pool", "init", name)
            yield name
        finally:
            self.remove_pool(name)

    def remove_pool(self, name: str) -> None:
        # The mon answers at once; the OSD removes the objects in its own time.
        self.ceph("osd", "pool", "rm", name, name, "--yes-i-really-really-mean-it")

    def blocklist(self) -> list[str]:
        """The client addresses that are blocklisted now."""
        # `osd blocklist ls` prints two lists, one after the other: no JSON.
        osd_map = json.loads(self.ceph("osd", "dump", "--format=json"))
        return list(osd_map["blocklist"])

    def blocklist_add(self, address: str) -> None:
        self.ceph("osd", "blocklist", "add", address)

    def blocklist_rm(self, address: str) -> None:
        self.ceph("osd", "blocklist", "rm", address)

    def pid(self, daemon: str) -> int:
        """The process id of a daemon: mon.a, mgr.x, osd.0 ..."""
        return int((self.dir / f"{daemon}.pid").read_text())

    def signal(self, daemon: str, signum: int) -> None:
        os.kill(self.pid(daemon), signum)

    @contextlib.contextmanager
    def stalled(self, daemon: str) -> Iterator[None]:
        """Stop a daemon's process for the time of the block: at most 12 s for the only OSD."""
        self.signal(daemon, signal.SIGSTOP)
        try:
            # The signal stops one thread after the other: one that still runs may answer.
            eventually(lambda: is_stopped(self.pid(daemon)), what=f"{daemon} to stand still")
            yield
        finally:
            self.signal(daemon, signal.SIGCONT)

    def stop_daemon(self, daemon: str, *, kill: bool = False) -> None:
        run(str(SCRIPT), "stop-daemon", *(["--kill"] if kill else []), daemon, str(self.dir))

    def start_daemon(self, daemon: str) -> None:
        """Start a daemon that was stopped, and wait until it serves."""
        run(str(SCRIPT), "start-daemon", daemon, str(self.dir))

    def restart(self, daemon: str, *, kill: bool = False) -> None:
        self.stop_daemon(daemon, kill=kill)
        self.start_daemon(daemon)

    @contextlib.contextmanager
    def connect(self, id: str = "admin") -> Iterator[Rados]:
        with Rados(conffile=str(self.conf), rados_id=id) as cluster:
            yield cluster
