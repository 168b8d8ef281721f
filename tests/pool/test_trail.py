"""The log tells of each change who has asked for it."""

from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING

from tests.support.images import MIB, import_image, random_bytes

if TYPE_CHECKING:
    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount, Mounting


def asked(mount: Mount, *command: str) -> list[str]:
    """What the log says that a command has asked for."""
    with subprocess.Popen(command, cwd=mount.path) as process:
        assert process.wait(30) == 0
    pattern = rf"INFO .*?\): (.*), asked for by uid {os.getuid()}, process "
    return re.findall(pattern + str(process.pid) + r"\n", mount.log_text)


def test_each_change_leaves_a_line(ceph: Ceph, mounting: Mounting) -> None:
    with ceph.temporary_pool() as pool, mounting(pool, "-o", "manage=snapshots") as mount:
        import_image(ceph, f"{pool}/vm1", random_bytes(MIB))
        # One that grows has many sizes.
        assert asked(mount, "truncate", "-s", "2M", "new") == [f"made {pool}/new"]
        assert asked(mount, "truncate", "-s", "1M", "new") == [
            f"resized {pool}/new from {2 * MIB} bytes to {MIB}"
        ]
        assert asked(mount, "ln", "vm1", "vm1@s") == [f"made {pool}/vm1@s of {pool}/vm1"]
        assert asked(mount, "ln", "vm1@s", "vm2") == [f"made {pool}/vm2 of {pool}/vm1@s"]
        assert asked(mount, "mv", "vm2", "new") == [f"renamed {pool}/vm2 to {pool}/new"]
        assert asked(mount, "chown", "64055:108", "new") == [
            f"set rbdfs.uid 64055, rbdfs.gid 108 of {pool}/new"
        ]
        assert asked(mount, "chmod", "0640", "new") == [f"set rbdfs.mode 0640 of {pool}/new"]
        assert asked(mount, "setfattr", "-n", "user.rbd.meta.a", "-v", "b", "new") == [
            f"set 'user.rbd.meta.a' of {pool}/new"
        ]
        assert asked(mount, "sh", "-c", ": > new") == [f"emptied {pool}/new"]
        assert asked(mount, "rm", "new") == [f"removed {pool}/new"]
        assert asked(mount, "ln", "vm1", "vm1@t") == [f"made {pool}/vm1@t of {pool}/vm1"]
        assert asked(mount, "rm", "vm1@t") == [f"removed {pool}/vm1@t"]
        assert asked(mount, "mkdir", "space") == [f"made namespace {pool}/space/"]
        assert asked(mount, "rmdir", "space") == [f"removed namespace {pool}/space/"]
        # Nothing was changed.
        for command in (("touch", "vm1"), ("cat", "vm1"), ("chmod", "0600", "vm1")):
            assert asked(mount, *command) == []
