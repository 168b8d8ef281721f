"""A small virtual machine: Debian's cloud kernel, busybox, and a shell script that uses the drives.

QEMU emulates the processor, as /dev/kvm is not to be counted on.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

CACHE = Path(__file__).resolve().parents[2] / ".cache"
BUSYBOX = Path("/bin/busybox")
# In the order of their dependencies; what a kernel has built in is left out, as ext4 always is.
MODULES = (
    "drivers/virtio/virtio_ring.ko",
    "drivers/virtio/virtio.ko",
    "drivers/virtio/virtio_pci_legacy_dev.ko",
    "drivers/virtio/virtio_pci_modern_dev.ko",
    "drivers/virtio/virtio_pci.ko",
    "drivers/block/virtio_blk.ko",
)
BEGIN_MARK = "guest-script-begins"
END_MARK = "guest-script-exit-code"
INIT = f"""\
#!/bin/busybox sh
/bin/busybox mkdir -p /bin /sbin /dev /proc /sys /mnt /tmp
/bin/busybox --install -s /bin
export PATH=/bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
for module in /modules/*; do
    insmod "$module"
done
echo {BEGIN_MARK}
sh -e /script
echo {END_MARK} $?
sync
poweroff -f
"""


class GuestError(Exception):
    """The guest's script failed or did not come to its end; the message has the console's text."""


def guest_kernel() -> Path:
    """The kernel that contrib/setup unpacked; FileNotFoundError if it did not."""
    # Debian 14 has it beside its modules.
    places = ("boot/vmlinuz-*", "usr/lib/modules/*/vmlinuz")
    kernels = sorted(kernel for place in places for kernel in CACHE.glob(f"guest/{place}"))
    if not kernels:
        raise FileNotFoundError(f"no guest kernel in {CACHE}/guest (contrib/setup puts it there)")
    return kernels[-1]


def _modules() -> list[tuple[str, bytes]]:
    """Names, which sort as they depend on each other, and contents of the modules."""
    (tree,) = (path for lib in ("lib", "usr/lib") for path in CACHE.glob(f"guest/{lib}/modules/*"))
    built_in = (tree / "modules.builtin").read_text().split()
    found = []
    for number, module in enumerate(MODULES):
        if f"kernel/{module}" in built_in:
            continue
        path = tree / "kernel" / module
        # Packed since Debian 13; busybox cannot unpack it.
        packed = path.with_name(f"{path.name}.xz")
        content = lzma.decompress(packed.read_bytes()) if packed.exists() else path.read_bytes()
        found.append((f"{number}-{path.name}", content))
    return found


def run_guest(script: str, drives: Sequence[Path | str], timeout: float = 120.0) -> str:
    """Boot, run a script with `sh -e`, power off; return what the script printed.

    A drive is a raw file, opened as a virtual machine's disk would be (cache=none,
    discard=unmap), or the value of a `-drive` option. The first is /dev/vda.
    Raises GuestError if the script fails, or is not done after `timeout` s.
    """
    kernel = guest_kernel()
    with tempfile.TemporaryDirectory(prefix="rbdfs-guest-") as scratch:
        initrd = Path(scratch, "initrd")
        tree = Path(scratch, "tree")
        tree.mkdir()
        (tree / "script").write_text(script)
        # The kernel unpacks one archive after the other.
        initrd.write_bytes(_base_initramfs(kernel).read_bytes() + _cpio(tree))
        return _script_output(_boot(kernel, initrd, drives, timeout))


def _boot(kernel: Path, initrd: Path, drives: Sequence[Path | str], timeout: float) -> str:
    """The whole text of the console."""
    command = [
        *("qemu-system-x86_64", "-accel", "tcg", "-machine", "pc", "-cpu", "max", "-m", "512"),
        *("-display", "none", "-monitor", "none", "-serial", "stdio", "-net", "none"),
        *("-no-reboot", "-kernel", str(kernel), "-initrd", str(initrd)),
        *("-append", "console=ttyS0 quiet panic=-1"),
    ]
    for drive in drives:
        command += ["-drive", drive if isinstance(drive, str) else _raw_drive(drive)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired as exc:
        console = (exc.stdout or b"").decode(errors="replace")
        raise GuestError(f"the guest was not done after {timeout:g} s:\n{console}") from None
    return done.stdout.decode(errors="replace").replace("\r\n", "\n")


def _raw_drive(path: Path) -> str:
    # A comma in the value of a QEMU option is doubled.
    name = os.fspath(path).replace(",", ",,")
    return f"file={name},format=raw,if=virtio,cache=none,discard=unmap"


def _script_output(console: str) -> str:
    output = re.search(
        rf"^{BEGIN_MARK}\n(.*?)^{END_MARK} (\d+)$", console, re.DOTALL | re.MULTILINE
    )
    if output is None:
        raise GuestError(f"the guest's script did not come to its end:\n{console}")
    if output[2] != "0":
        raise GuestError(f"the guest's script ended with exit code {output[2]}:\n{output[1]}")
    return output[1]


def _base_initramfs(kernel: Path) -> Path:
    """The archive with everything but the script: made once, kept in .cache."""
    key = hashlib.sha256(INIT.encode() + BUSYBOX.read_bytes() + kernel.read_bytes())
    archive = CACHE / f"guest-initramfs-{key.hexdigest()[:12]}"
    if archive.exists():
        return archive
    with tempfile.TemporaryDirectory(prefix="guest-initramfs-", dir=CACHE) as scratch:
        tree = Path(scratch, "tree")
        (tree / "bin").mkdir(parents=True)
        (tree / "modules").mkdir()
        shutil.copy(BUSYBOX, tree / "bin" / "busybox")
        for name, content in _modules():
            (tree / "modules" / name).write_bytes(content)
        (tree / "init").write_text(INIT)
        (tree / "init").chmod(0o755)
        unfinished = Path(scratch, "archive")
        unfinished.write_bytes(_cpio(tree))
        unfinished.rename(archive)
    return archive


def _cpio(tree: Path) -> bytes:
    """A directory as an archive in the format that the kernel reads."""
    names = sorted(os.fsencode(path.relative_to(tree)) for path in tree.rglob("*"))
    return subprocess.run(
        ["cpio", "--create", "--format=newc", "--null", "--quiet", "--owner=0:0"],
        input=b"".join(name + b"\0" for name in names),
        capture_output=True,
        cwd=tree,
        check=True,
    ).stdout
