"""A keeper of the version before, with servers of this one: what there is after an upgrade."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.conditions import eventually
from tests.support.images import MIB, export_image, import_image, random_bytes
from tests.support.mounts import opened
from tests.support.old_keeper import OldMount

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.ceph import Ceph

pytestmark = pytest.mark.usefixtures("native")


# Writes one block of an image after the other, each with its number, and says when it is written. A
# process of its own: one that starts servers closes its files in the child, and waits for that.
WRITER = """
import os, sys
file, progress, number = os.open(sys.argv[1], os.O_RDWR), open(sys.argv[2], "wb", 0), 0
while not os.path.exists(sys.argv[3]):
    os.pwrite(file, number.to_bytes(8) * 512, number % 32 * 4096)
    progress.write(b".")
    number += 1
os.close(file)
"""


class Writer:
    """Writes until the end of the context."""

    def __init__(self, path: Path, directory: Path) -> None:
        self._progress, self._enough = directory / "progress", directory / "enough"
        self._progress.touch()
        self._process = subprocess.Popen(
            [sys.executable, "-c", WRITER, path, self._progress, self._enough]
        )

    @property
    def written(self) -> int:
        return self._progress.stat().st_size

    def go_on(self) -> None:
        """Wait until some more blocks are written."""
        before = self.written
        eventually(lambda: self.written > before + 20, what="more writes")

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._enough.touch()
        try:
            assert self._process.wait(30.0) == 0
        finally:
            self._process.kill()


def test_restart_and_crash_while_a_file_is_written(
    ceph: Ceph, pool: str, image_name: str, tmp_path: Path
) -> None:
    import_image(ceph, f"{pool}/{image_name}", random_bytes(MIB))
    path = tmp_path / "m"
    path.mkdir()
    with OldMount(ceph.conf, pool, path, tmp_path / "log") as mount:
        with Writer(path / image_name, tmp_path) as writer:
            for crashed in (False, True, False):
                writer.go_on()
                if crashed:
                    assert mount.server is not None
                    mount.server.process.kill()
                else:
                    mount.send("restart")
                    mount.hear_until("replace_me")
                mount.hear_until(None)
                assert mount.end() == (-9 if crashed else 0)
                mount.start(crashed=crashed)
                mount.hear_until("ready")
            writer.go_on()
        mount.send("end")
        mount.hear_until("ended")
        mount.hear_until(None)
        assert mount.end() == 0
    last = writer.written - 1
    numbers = [last - (last - block) % 32 for block in range(32)]
    expected = b"".join(number.to_bytes(8) * 512 for number in numbers)
    assert export_image(ceph, f"{pool}/{image_name}")[: len(expected)] == expected


# A kernel of before 6.9: what asks it to send requests again is EINVAL.
OLD_LINUX = """
import sys
from rbdfs.kernel import raw_requests
from rbdfs.server.__main__ import main
raw_requests._NOTIFY_RESEND = 99
sys.exit(main())
"""
HAS_RESEND = 1 << 7
FLAGS2 = slice(40 + 4 * 4, 40 + 4 * 5)


def test_a_kernel_that_sends_nothing_again(
    ceph: Ceph, pool: str, image_name: str, tmp_path: Path
) -> None:
    """A crash costs what was in flight, and not the mount."""
    import_image(ceph, f"{pool}/{image_name}", random_bytes(MIB))
    path, log = tmp_path / "m", tmp_path / "log"
    path.mkdir()
    with OldMount(ceph.conf, pool, path, log) as mount:
        with opened(path / image_name, os.O_RDONLY) as file:
            assert os.pread(file, 4, 0) == random_bytes(MIB)[:4]
            init = bytearray.fromhex(mount.keeper.init)
            flags2 = int.from_bytes(init[FLAGS2], sys.byteorder)
            assert flags2 & HAS_RESEND, "the kernel that this test runs on knows it"
            init[FLAGS2] = (flags2 & ~HAS_RESEND).to_bytes(4, sys.byteorder)
            mount.keeper.init = init.hex()
            mount.program = ["-c", OLD_LINUX]
            assert mount.server is not None
            server = mount.server.process
        # Closed before: a process that is started closes its files, and waits for that.
        server.kill()
        mount.hear_until(None)
        mount.end()
        mount.start(crashed=True)
        mount.hear_until("ready")
        assert (path / image_name).read_bytes() == random_bytes(MIB)
        mount.send("end")
        mount.hear_until(None)
        assert mount.end() == 0
    assert "this kernel sends no request again" in log.read_text()
