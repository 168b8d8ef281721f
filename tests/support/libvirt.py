"""libvirtd with its defaults, where it finds and leaves nothing of this machine's own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.ceph import run
from tests.support.namespaces import WITHOUT_MOUNTS_OF_OTHERS
from tests.support.notifications import NotifySocket

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAMS = ("libvirtd", "virtlogd", "virsh", "qemu-system-x86_64")
QEMU = 64055
"""User and group of QEMU, as Debian's packages make them."""

# What could not be in a container is off:
# all else is as installed. PID 1 reaps what QEMU leaves, and ends all with itself.
_SCRIPT = f"""
{WITHOUT_MOUNTS_OF_OTHERS}
set -e
for directory in /run /etc/libvirt /var/lib/libvirt /var/cache/libvirt /var/log/libvirt; do
    mkdir -p "$directory"
    mount -t tmpfs none "$directory"
done
printf 'cgroup_controllers = []\\nnamespaces = []\\n' > /etc/libvirt/qemu.conf
for file in passwd group; do cp "/etc/$file" "$1/$file"; done
echo 'libvirt-qemu:x:{QEMU}:{QEMU}::/:/usr/sbin/nologin' >> "$1/passwd"
echo 'libvirt-qemu:x:{QEMU}:' >> "$1/group"
for file in passwd group; do mount --bind "$1/$file" "/etc/$file"; done
virtlogd &
libvirtd &
wait
"""
_UNSHARE = ("unshare", "--mount", "--propagation=slave", "--net", "--pid", "--mount-proc", "--fork")


@dataclass(frozen=True)
class Libvirt:
    """libvirtd in the mount namespace that process `holder` is in.

    Attributes:
        reachable: a directory for mount points, which libvirtd and QEMU's user can reach.
    """

    holder: int
    reachable: Path

    def virsh(self, *arguments: str) -> str:
        """What `virsh` prints; CommandError where it fails."""
        enter = ("nsenter", f"--mount=/proc/{self.holder}/ns/mnt")
        return run(*enter, "virsh", "--quiet", "--connect", "qemu:///system", *arguments)


@contextlib.contextmanager
def libvirt_in(directory: Path) -> Iterator[Libvirt]:
    """libvirtd, which logs into this directory, until the end of the context."""
    address = str(directory / "notify")
    with (
        _shared() as reachable,
        NotifySocket(address) as notify,
        (directory / "libvirtd.log").open("wb") as log,
        subprocess.Popen(
            [*_UNSHARE, "--kill-child", "sh", "-c", _SCRIPT, "sh", directory],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=os.environ | {"NOTIFY_SOCKET": address},
        ) as holder,
    ):
        try:
            for _ in ("virtlogd", "libvirtd"):
                assert notify.receive(holder.pid) is not None, log.name
            yield Libvirt(holder.pid, reachable)
        finally:
            holder.send_signal(signal.SIGKILL)


@contextlib.contextmanager
def _shared() -> Iterator[Path]:
    """A directory in which mounts are made and ended for those who have unshared theirs, too."""
    with tempfile.TemporaryDirectory(prefix="rbdfs-libvirt-") as name:
        path = Path(name, "shared")
        path.mkdir()
        path.parent.chmod(0o755)
        run("mount", "-t", "tmpfs", "-o", "mode=755", "none", str(path))
        try:
            run("mount", "--make-shared", str(path))
            yield path
        finally:
            run("umount", "--recursive", "--lazy", str(path))


def domain(name: str, *disks: tuple[Path, str]) -> str:
    """A small domain of disks, each a file and its format, that is not in need of KVM."""
    devices = "".join(
        f"<disk type='file' device='disk'><driver name='qemu' type='{kind}'/>"
        f"<source file='{path}'/><target dev='vd{letter}' bus='virtio'/></disk>"
        for letter, (path, kind) in zip("abcdef", disks, strict=False)
    )
    return (
        f"<domain type='qemu'><name>{name}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>"
        "<os><type arch='x86_64' machine='pc'>hvm</type></os>"
        f"<devices>{devices}<controller type='usb' model='none'/><memballoon model='none'/>"
        "</devices></domain>"
    )
