"""The server is killed or replaced under load: a pause, no error and no wrong byte."""

from __future__ import annotations

import hashlib
import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.ceph import run
from tests.support.guest import run_guest
from tests.support.images import export_image, import_image
from tests.support.servers import ask, killed_server, repeatedly

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount, Mounting

pytestmark = pytest.mark.usefixtures("native")


def kill(mount: Mount) -> None:
    """Kill the server once it serves: before that it would count as one that cannot start."""
    killed_server(mount, ask(mount, "status")["generation"] + 1)


FAULTS: dict[str, Callable[[Mount], object]] = {
    "killed": kill,
    "restarted": lambda mount: ask(mount, "restart"),
}


def verify(path: Path, seconds: int) -> dict[str, Any]:
    """Write random blocks at depth 16 with O_DIRECT and check them; the figures of the job."""
    settings = {
        "name": "verify",
        "filename": path,
        "ioengine": "libaio",
        "direct": 1,
        "rw": "randwrite",
        "bs": "4k",
        "iodepth": 16,
        "size": "16m",
        "time_based": 1,
        "runtime": seconds,
        "verify": "crc32c",
        "verify_backlog": 64,
        "verify_fatal": 1,
        "verify_state_save": 0,
        "allow_file_create": 0,
    }
    command = ["fio", "--output-format=json", *(f"--{key}={settings[key]}" for key in settings)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60)
    assert done.returncode == 0, done.stderr + done.stdout
    job: dict[str, Any] = json.loads(done.stdout)["jobs"][0]
    assert job["error"] == 0
    return job


@pytest.mark.parametrize(
    ("fault", "seconds"), [pytest.param("killed", 60, marks=pytest.mark.slow), ("restarted", 10)]
)
def test_fio_verifies(
    ceph: Ceph, pool: str, image_name: str, mounting: Mounting, fault: str, seconds: int
) -> None:
    ceph.rbd("create", "--size=16M", f"{pool}/{image_name}")
    act = FAULTS[fault]
    with mounting(pool, lifetime_s=seconds + 60) as mount:
        with repeatedly(lambda: act(mount), 2.0) as times:
            job = verify(mount.file(image_name), seconds)
        assert len(times) >= seconds / 6
        assert ask(mount, "status")["generation"] == len(times) + 1
        longest = max(job[kind]["clat_ns"]["max"] for kind in ("read", "write")) / 1e9
        print(f"{fault}: {len(times)} times, longest request {longest:.2f} s")  # noqa: T201


SCRIPT = """
mount -t ext4 /dev/vda /mnt
for i in $(seq 1 150); do
    dd if=/dev/urandom of=/mnt/file$i bs=16k count=4 conv=fsync 2>/dev/null
    sha256sum /mnt/file$i
    sync
done
umount /mnt
"""


@pytest.mark.parametrize("fault", FAULTS)
def test_guest_goes_on(
    ceph: Ceph, pool: str, image_name: str, mounting: Mounting, tmp_path: Path, fault: str
) -> None:
    disk = tmp_path / "disk"
    run("mke2fs", "-q", "-t", "ext4", str(disk), "32M")
    import_image(ceph, f"{pool}/{image_name}", disk.read_bytes())
    with mounting(pool, lifetime_s=120) as mount:
        with repeatedly(lambda: FAULTS[fault](mount), 1.8) as times:
            output = run_guest(SCRIPT, [mount.file(image_name)], timeout=90.0)
        assert len(times) >= 2
        assert ask(mount, "status")["generation"] == len(times) + 1
        written = [line.split() for line in output.splitlines() if "/mnt/file" in line]
        assert len(written) == 150
        # fsck's exit code is 0 for a clean file system only.
        run("e2fsck", "-fn", str(mount.file(image_name)))
    disk.write_bytes(export_image(ceph, f"{pool}/{image_name}"))
    run("e2fsck", "-fn", str(disk))
    for digest, name in written:
        run("debugfs", "-R", f"dump {name.removeprefix('/mnt')} {tmp_path}/file", str(disk))
        assert hashlib.sha256((tmp_path / "file").read_bytes()).hexdigest() == digest, name
