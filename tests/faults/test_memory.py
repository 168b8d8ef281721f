"""Memory runs out while a file system lies on an image: its dirty pages are written back.

What writes them back has to ask this mount, whose server must not wait for that in turn.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.mount.test_space_disks import mounted_at
from tests.support.ceph import run
from tests.support.images import MIB, export_image, random_bytes
from tests.support.loops import loop_device
from tests.support.mounts import TIMEOUT_S
from tests.support.servers import kill_server, server_of, wait_for_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mounting

LIMIT = 24 * MIB
# A multiple of what the limit lets stay dirty.
FILE_BYTES = 48 * MIB
LEGACY = Path("/sys/fs/cgroup/memory")
UNIFIED = Path("/sys/fs/cgroup")


@pytest.fixture
def limited() -> Iterator[Path]:
    """A control group whose processes may have LIMIT bytes of memory, page cache included."""
    name = f"rbdfs-{uuid.uuid4().hex[:8]}"
    if (LEGACY / "memory.limit_in_bytes").exists():
        group, setting = LEGACY / name, "memory.limit_in_bytes"
    elif "memory" in (UNIFIED / "cgroup.subtree_control").read_text().split():
        group, setting = UNIFIED / name, "memory.max"
    else:
        pytest.skip("no control group can limit memory here")
    group.mkdir()
    try:
        (group / setting).write_text(str(LIMIT))
        yield group
    finally:
        group.rmdir()


def assert_waits_for_no_pages(pid: int) -> None:
    """No thread of a process waits for what it may have to write itself (PF_MEMALLOC_NOIO).

    Where it has CAP_SYS_RESOURCE: without that the kernel does not let it ask.
    """
    status = Path(f"/proc/{pid}/status").read_text()
    if not int(status.partition("CapEff:")[2].split()[0], 16) & 1 << 24:
        return
    stats = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    flags = [int(stat.rpartition(")")[2].split()[6]) for stat in stats]
    assert flags
    assert all(each & 0x80000 for each in flags)


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("direct", ["off", "on"], ids=["buffered", "direct"])
def test_file_system_on_a_loop_device(
    ceph: Ceph,
    pool: str,
    image_name: str,
    mounting: Mounting,
    limited: Path,
    tmp_path: Path,
    direct: str,
) -> None:
    spec = f"{pool}/{image_name}"
    ceph.rbd("create", "--size=160M", spec)
    source = tmp_path / "source"
    source.write_bytes(random_bytes(FILE_BYTES))
    with mounting(pool) as mount, contextlib.ExitStack() as stack:
        assert_waits_for_no_pages(server_of(mount) or 0)
        device = stack.enter_context(loop_device(mount.file(image_name), f"--direct-io={direct}"))
        run("mke2fs", "-q", "-t", "ext4", device)
        with mounted_at(tmp_path / "fs", device, "rw") as files:
            script = 'echo $$ >"$1/cgroup.procs" && exec cp "$2" "$3"'
            command = ["sh", "-c", script, "sh", str(limited), str(source), str(files / "file")]
            subprocess.run(command, check=True, timeout=2 * TIMEOUT_S)
            # And once more without a server for a time.
            with subprocess.Popen([*command[:-1], str(files / "other")]) as copy:
                kill_server(mount)
                assert copy.wait(2 * TIMEOUT_S) == 0
            wait_for_server(mount, 2)
            mount.expect_log(r"ERROR .*server 1 was killed \(signal 9\)")
            os.sync()
        run("e2fsck", "-fn", device)
        stack.close()
        assert mount.alive
    disk = tmp_path / "disk"
    disk.write_bytes(export_image(ceph, spec))
    run("e2fsck", "-fn", str(disk))
    for name in ("file", "other"):
        run("debugfs", "-R", f"dump /{name} {tmp_path}/{name}", str(disk))
        run("cmp", str(tmp_path / name), str(source))
