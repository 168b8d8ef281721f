"""What would kill a careless keeper or server: no descriptors, odd messages, silence."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import tests.support.odd_server as odd_server
from rbdfs.errors import UserError
from rbdfs.keeper import command_client
from tests.support.conditions import eventually
from tests.support.images import MIB, import_image, random_bytes
from tests.support.mounts import TIMEOUT_S, opened
from tests.support.refusals import refusal
from tests.support.servers import (
    ask,
    kill_server,
    killed_server,
    server_of,
    signal_server,
    wait_for_server,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount, Mounting

pytestmark = pytest.mark.usefixtures("native")


@contextlib.contextmanager
def out_of_descriptors(pid: int) -> Iterator[None]:
    """A process can open nothing more for the time of the block."""
    highest = max(int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir())
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (highest + 1, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def asked_in_vain(mount: Mount) -> None:
    with contextlib.suppress(UserError):
        command_client.ask(str(mount.path), "status")


def test_keeper_out_of_descriptors(pool: str, image: str, mounting: Mounting) -> None:
    with mounting(pool) as mount, opened(mount.file(image), os.O_RDWR) as file:
        mount.allow_log("ERROR .*cannot start a server", "WARNING .*cannot hear a command")
        with out_of_descriptors(mount.pid):
            # In this process: one that is started closes the file, and waits for a server.
            asking = threading.Thread(target=asked_in_vain, args=(mount,))
            asking.start()
            kill_server(mount)
            eventually(lambda: "cannot start a server" in mount.log_text, what="a start in vain")
        wait_for_server(mount, 2)
        asking.join()
        mount.expect_log(r"ERROR .*server 1 was killed \(signal 9\)")
        assert os.pread(file, 4, 0) == random_bytes(MIB)[:4]
        assert ask(mount, "restart")["generation"] == 3


def test_odd_messages(pool: str, image: str, mounting: Mounting) -> None:
    """Of servers, of another version or out of their minds; each begins with all of them."""
    with mounting(pool, program=[sys.executable, odd_server.__file__]) as mount:
        mount.expect_log(r"ERROR .*the keeper goes on", r"WARNING .*ignored: 'eclipse'")
        mount.expect_log(r"WARNING .*ignored: 'gone' of 'message'", r"WARNING .*ignored: 'planets'")
        mount.expect_log(r"WARNING .*ignored: .*'a': 1")
        with opened(mount.file(image), os.O_RDWR) as file:
            assert ask(mount, "restart")["generation"] == 2
            killed_server(mount, 3)
            assert os.pread(file, 4, 0) == random_bytes(MIB)[:4]


def test_status_longer_than_a_message(
    ceph: Ceph, pool: str, image_name: str, mounting: Mounting
) -> None:
    """Long names that JSON escapes, of files that are lost, which says them once more."""
    image, snap = image_name + "\N{CJK UNIFIED IDEOGRAPH-9AD4}" * 60, "s" * 50
    import_image(ceph, f"{pool}/{image}", random_bytes(MIB))
    ceph.rbd("snap", "create", f"{pool}/{image}@{snap}")
    with mounting(pool) as mount, contextlib.ExitStack() as files:
        path = mount.file(f"{image}@{snap}")
        for _ in range(256):
            # It says that it is lost when it is closed, too.
            files.callback(refusal, partial(os.close, os.open(path, os.O_RDONLY)))
        server = server_of(mount)
        ceph.rbd("snap", "rm", f"{pool}/{image}@{snap}")
        mount.allow_log("WARNING .*was removed", "WARNING .*repeated")
        eventually(lambda: ask(mount, "status")["files"][0]["error"], what="the loss")
        status = ask(mount, "status")
        assert status["open_files"] == 256
        assert 50 < len(status["files"]) < 256
        assert (server_of(mount), status["generation"]) == (server, 1)


def test_server_that_stands_still(pool: str, mounting: Mounting) -> None:
    """The keeper waits for it no more often than it is asked, and answers what it knows itself."""
    with mounting(pool) as mount:
        path = str(mount.path)
        entry = command_client.entry_at(path, "status")
        server = signal_server(mount, signal.SIGSTOP)
        try:
            for _ in range(1000):
                with command_client.connected(path, entry, TIMEOUT_S) as sock:
                    sock.send(b"status")
            answer = command_client.ask_keeper(path, entry, "options", TIMEOUT_S)
            assert answer["state"] == "serving"
        finally:
            os.kill(server, signal.SIGCONT)
        assert ask(mount, "status")["generation"] == 1


class Opener(threading.Thread):
    """Opens and closes a file until it is told to stop."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._last = time.monotonic()
        self.enough = threading.Event()

    def run(self) -> None:
        while not self.enough.is_set():
            with opened(self._path, os.O_RDONLY):
                self._last = time.monotonic()

    @property
    def stuck(self) -> bool:
        """Whether it waits for a second now."""
        return time.monotonic() - self._last > 1


def test_keeper_that_stands_still(pool: str, image: str, mounting: Mounting) -> None:
    """What it has to know waits; what it need not know does not."""
    with mounting(pool) as mount, opened(mount.file(image), os.O_RDONLY) as file:
        opener = Opener(mount.file(image))
        mount.signal(signal.SIGSTOP)
        try:
            opener.start()
            eventually(lambda: opener.stuck, what="a full socket")
            for number in range(20):
                path = mount.file(f"nothing-{number}")
                assert refusal(path.stat) == "ENOENT"
            assert os.pread(file, 4, 0) == random_bytes(MIB)[:4]
        finally:
            opener.enough.set()
            mount.signal(signal.SIGCONT)
        opener.join(30)
        assert not opener.is_alive()
        killed_server(mount)
        assert os.pread(file, 4, 0) == random_bytes(MIB)[:4]
        assert ask(mount, "status")["open_files"] == 1
