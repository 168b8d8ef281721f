"""Where the log goes: journal and syslog as they receive it, and which lines these are."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.mounts import TIMEOUT_S, processes_naming, wait_for_end
from tests.support.namespaces import WITHOUT_MOUNTS_OF_OTHERS, namespace
from tests.support.servers import is_server

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.mounts import Mounting

JOURNAL, SYSLOG = Path("/run/systemd/journal/socket"), Path("/dev/log")

OWN_RUN_AND_DEV = """
mount -t tmpfs tmpfs /run && mkdir /run/dev && ln -s /proc/self/fd /run/dev/fd
for name in null zero full random urandom fuse; do cp -a /dev/$name /run/dev; done
mount --rbind /run/dev /dev
"""
SCRIPT = """
import errno, logging, os, sys
from rbdfs.config import log_targets
from rbdfs.config.logging_setup import about, configure_logging, finish, repeats
from rbdfs.config.mount_options import MountOptions
from rbdfs.errors import Fenced
log_targets._JOURNAL = sys.argv[1]
log = logging.getLogger("rbdfs.test")
def configure(**options):
    configure_logging(MountOptions(mountpoint="/srv/rbd", **options))
"""


def entry(packet: bytes) -> dict[str, str]:
    """The fields of an entry, as the journal's native protocol has them."""
    fields = {}
    while packet:
        line, _, packet = packet.partition(b"\n")
        name, separator, value = line.partition(b"=")
        if not separator:
            length, packet = int.from_bytes(packet[:8], "little"), packet[8:]
            value, packet = packet[:length], packet[length + 1 :]
        fields[name.decode()] = value.decode()
    return fields


def listener(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.settimeout(TIMEOUT_S)
    path.parent.mkdir(parents=True, exist_ok=True)
    # bind(2) takes 107 bytes.
    directory = os.open(path.parent, os.O_PATH)
    try:
        sock.bind(f"/proc/self/fd/{directory}/{path.name}")
    finally:
        os.close(directory)
    return sock


def received(sock: socket.socket) -> dict[str, str]:
    packet, descriptors, _, _ = socket.recv_fds(sock, 1 << 20, 1)
    if not descriptors:
        return entry(packet)
    assert packet == b""
    with os.fdopen(descriptors[0], "rb") as memory:
        memory.seek(0)
        return entry(memory.read())


def run(script: str, journal: Path, **environment: str) -> None:
    subprocess.run(
        [sys.executable, "-c", SCRIPT + script, journal],
        check=True,
        timeout=TIMEOUT_S,
        cwd=Path(__file__).parents[2],
        env=os.environ | environment,
    )


def test_fields_of_an_entry(tmp_path: Path) -> None:
    script = """
configure()
log.info("mounted")
log.warning("%s: waits", "rbd/vm1", extra=about("rbd/vm1"))
fenced = Fenced("rbd/vm2: write 0~512: fenced")
log.error("write: %s", fenced, extra=repeats(fenced))
try:
    raise ValueError("a mistake")
except ValueError:
    log.exception("failed")
log.info("long" * 1000000)
sys.exit(finish(0))
"""
    with listener(tmp_path / "journal") as sock:
        run(script, tmp_path / "journal")
        first, waits, fenced, failed, long = (received(sock) for _ in range(5))
    assert first.pop("SYSLOG_PID").isdigit()
    assert first == {
        "MESSAGE": "/srv/rbd (rbd): mounted",
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "rbdfs",
        "SYSLOG_FACILITY": "3",
        "LOGGER": "rbdfs.test",
        "RBDFS_MOUNT": "/srv/rbd",
        "RBDFS_SOURCE": "rbd",
    }
    assert (waits["PRIORITY"], waits["RBDFS_IMAGE"]) == ("4", "rbd/vm1")
    assert (fenced["PRIORITY"], fenced["RBDFS_IMAGE"]) == ("3", "rbd/vm2")
    assert failed["MESSAGE"].startswith("/srv/rbd (rbd): failed\nTraceback (most recent call last)")
    assert failed["MESSAGE"].endswith("\nValueError: a mistake")
    assert long["MESSAGE"] == "/srv/rbd (rbd): " + "long" * 1_000_000


def test_what_the_journal_did_not_take_is_told(tmp_path: Path) -> None:
    """It is started anew, and its socket is away meanwhile."""
    script = """
configure()
log.info("before")
finish(0)
os.rename(sys.argv[1], sys.argv[1] + ".away")
log.info("lost")
finish(0)
os.rename(sys.argv[1] + ".away", sys.argv[1])
log.info("after")
sys.exit(finish(0))
"""
    with listener(tmp_path / "journal") as sock:
        run(script, tmp_path / "journal")
        messages = [received(sock)["MESSAGE"] for _ in range(3)]
    assert messages == [
        "/srv/rbd (rbd): before",
        "/srv/rbd (rbd): 1 lines are missing: [Errno 2] No such file or directory",
        "/srv/rbd (rbd): after",
    ]


@pytest.mark.parametrize("ours", [True, False])
def test_in_the_foreground_it_is_the_journal_where_stderr_leads_there(
    tmp_path: Path, *, ours: bool
) -> None:
    """As in a unit of systemd, which sets JOURNAL_STREAM; a program started in it may not."""
    script = """
status = os.fstat(2)
inode = status.st_ino if OURS else status.st_ino + 1
os.environ["JOURNAL_STREAM"] = f"{status.st_dev}:{inode}"
configure(foreground=True)
log.info("mounted")
sys.exit(finish(0))
""".replace("OURS", str(ours))
    with listener(tmp_path / "journal") as sock:
        run(script, tmp_path / "journal")
        sock.settimeout(0)
        if ours:
            assert received(sock)["MESSAGE"] == "/srv/rbd (rbd): mounted"
        else:
            with pytest.raises(BlockingIOError):
                received(sock)


@pytest.mark.parametrize(
    ("level", "said"), [("info", ["info", "warning"]), ("warning", ["warning"]), ("error", [])]
)
def test_levels(tmp_path: Path, level: str, said: list[str]) -> None:
    script = f"""
configure(log_level={level!r})
log.debug("debug")
log.info("info")
log.warning("warning")
log.critical("the end")
sys.exit(finish(0))
"""
    with listener(tmp_path / "journal") as sock:
        run(script, tmp_path / "journal")
        messages = [received(sock)["MESSAGE"] for _ in range(len(said) + 1)]
    assert messages == [f"/srv/rbd (rbd): {word}" for word in [*said, "the end"]]


def daemon_logs(
    pool: str, mounting: Mounting, path: Path, received: Callable[[socket.socket], str]
) -> tuple[list[str], int, int]:
    """The lines that a daemon sends from its start to its end, and its two processes."""
    mountpoint = mounting.mountpoint()
    with (
        namespace(f"{WITHOUT_MOUNTS_OF_OTHERS}{OWN_RUN_AND_DEV}true") as here,
        listener(here.path(path)) as sock,
    ):
        done = here.run(*mounting.command(pool, mountpoint, "--log-level", "info"))
        assert (done.returncode, done.stderr) == (0, "")
        keeper = next(pid for pid in processes_naming(str(mountpoint)) if not is_server(pid))
        server = int(Path(f"/proc/{keeper}/task/{keeper}/children").read_text())
        assert here.run("umount", mountpoint).returncode == 0
        wait_for_end(keeper)
        lines = []
        sock.settimeout(0)
        while True:
            try:
                lines.append(received(sock))
            except BlockingIOError:
                return lines, keeper, server


@pytest.mark.usefixtures("native")
def test_a_daemon_logs_to_the_journal(pool: str, mounting: Mounting) -> None:
    def line(sock: socket.socket) -> str:
        fields = received(sock)
        assert fields["SYSLOG_IDENTIFIER"] == "rbdfs"
        assert fields["RBDFS_SOURCE"] == pool
        return f"{fields['SYSLOG_PID']} {fields['PRIORITY']} {fields['MESSAGE']}"

    lines, keeper, server = daemon_logs(pool, mounting, JOURNAL, line)
    tag = f"6 {mounting.directory}/mnt ({pool}): "
    assert f"{server} {tag}mounted at '{mounting.directory}/mnt'" in lines
    assert any(line.startswith(f"{keeper} {tag}server 1 is ready after ") for line in lines)


@pytest.mark.usefixtures("native")
def test_a_daemon_logs_to_syslog(pool: str, mounting: Mounting) -> None:
    """With a tag, and neither a second time nor names of modules."""

    def line(sock: socket.socket) -> str:
        return sock.recv(65536).decode().rstrip("\0")

    lines, keeper, server = daemon_logs(pool, mounting, SYSLOG, line)
    # The facility daemon, 3, and the level info, 6.
    tag = f"<{3 * 8 + 6}>rbdfs[{{}}]: {mounting.directory}/mnt ({pool}): "
    assert f"{tag.format(server)}mounted at '{mounting.directory}/mnt'" in lines
    assert any(line.startswith(f"{tag.format(keeper)}server 1 is ready after ") for line in lines)
