"""Real mounts: rbdfs in a process of its own, its log checked, and nothing left of it."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import select
import signal
import subprocess
import sys
import threading
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.notifications import NotifySocket

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

    from tests.support.ceph import Ceph

RBDFS = Path(sys.executable).parent / "rbdfs"
TIMEOUT_S = 30.0
LIFETIME_S = 60.0

_RECORD = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} rbdfs\[\d+\] ([A-Z]+) ", re.MULTILINE)
_QUIET = ("DEBUG", "INFO")
# The kernel awaits no answer to a RELEASE: pyfuse3's may come after the end of the mount.
# And a host that is busy enough makes a cluster that does not answer.
_RACES = (
    r"fuse_release\(\): fuse_reply_\* failed with No such file or directory",
    r"waits? for the cluster since \d+ s",
)


class MountError(Exception):
    """rbdfs did not mount, did not end as it should, or logged what nobody had declared."""


def mounted(path: Path) -> bool:
    """Whether something is mounted exactly on this path, alive or dead."""
    octal = re.compile(r"\\([0-7]{3})")
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
        points = [line.split(" ")[4] for line in mounts]
    return str(path) in (octal.sub(lambda found: chr(int(found[1], 8)), point) for point in points)


def force_unmount(path: Path) -> None:
    """Take away whatever is mounted on a path, busy or dead."""
    while mounted(path):
        subprocess.run(["umount", "-l", "--", path], check=True, timeout=TIMEOUT_S)


def processes_naming(text: str) -> list[int]:
    """The processes whose command line has `text` in it, without the servers of mounts."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            words = entry.read_bytes()
            if os.fsencode(text) in words and b"\0rbdfs.server\0" not in words:
                found.append(int(entry.parent.name))
    return found


def wait_for_end(pid: int, timeout: float = TIMEOUT_S) -> None:
    """Return when a process, not necessarily a child, has ended; TimeoutError if it does not."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if not select.select([pidfd], [], [], timeout)[0]:
            raise TimeoutError(f"process {pid} is still there after {timeout:g} s")
    finally:
        os.close(pidfd)


@dataclass
class Mount:
    """rbdfs in the foreground, as a context: mounted inside it, and gone after it.

    The end of the block unmounts, and raises MountError if rbdfs does not exit with 0, or if
    its log or stderr has anything but DEBUG and INFO that no `expect_log` has declared.

    Attributes:
        command: the whole command line, with `-f`.
        path: the mount point, an existing directory.
        log: the file that takes what rbdfs logs and prints.
        exit_code: what rbdfs is to exit with; None for any.
        lifetime_s: after this time rbdfs is killed. Nothing but its end wakes a caller, even a
            killed one, whose request it does not answer: so a test fails, and does not hang.
    """

    command: list[str]
    path: Path
    log: Path
    exit_code: int | None = 0
    lifetime_s: float = LIFETIME_S
    _expected: list[str] = field(default_factory=list)
    _allowed: list[str] = field(default_factory=list)
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Mount:
        with contextlib.ExitStack() as stack:
            # Before there is anything to take away, so that a failure half-way leaves nothing.
            stack.callback(force_unmount, self.path)
            stack.callback(self._kill)
            notify = stack.enter_context(NotifySocket())
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    self.command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    # A warning of Python is in the log then, and so no test overlooks it.
                    env=os.environ | {"NOTIFY_SOCKET": notify.address, "PYTHONWARNINGS": "default"},
                )
            watchdog = threading.Timer(self.lifetime_s, self.signal_all, [signal.SIGKILL])
            watchdog.daemon = True
            watchdog.start()
            stack.callback(watchdog.cancel)
            message = notify.receive(self.pid)
            if message != {"READY": "1", "MAINPID": str(self.pid)}:
                raise MountError(f"not mounted ({message}):\n{self.log_text}")
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._stack:
            if exc is not None:
                exc.add_note(f"log of {self.path}:\n{self.log_text}")
                return
            if self.process.poll() is None:
                self.unmount()
            try:
                exit_code = self.wait()
            except subprocess.TimeoutExpired:
                raise MountError(f"it does not end:\n{self.log_text}") from None
            if self.exit_code is not None and exit_code != self.exit_code:
                raise MountError(f"exit code {exit_code}:\n{self.log_text}")
            self.check_log()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "not entered"
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        """Whether the process is there and the mount point answers."""
        return (
            self.process.poll() is None and mounted(self.path) and os.listdir(self.path) is not None
        )

    @property
    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def file(self, name: str) -> Path:
        return self.path / name

    def expect_log(self, *patterns: str) -> None:
        """Declare log records: each pattern has to be found, and what it finds is no failure."""
        self._expected += patterns

    def allow_log(self, *patterns: str) -> None:
        """Declare log records that may be there or not, as a race has it."""
        self._allowed += patterns

    def check_log(self) -> None:
        """Raise MountError for records that were not declared, or declared and are not there."""
        text = self.log_text
        # What comes before the first record, or after the first line of one, was printed past
        # the log, or is a traceback.
        starts = [0, *(found.start() for found in _RECORD.finditer(text)), len(text)]
        records = [text[start:end] for start, end in itertools.pairwise(starts)]
        loud = [record for record in records if _is_loud(record)]
        declared = (*self._expected, *self._allowed, *_RACES)
        unexpected = [record for record in loud if not any(re.search(p, record) for p in declared)]
        if unexpected:
            raise MountError("unexpected in the log:\n" + "".join(unexpected))
        missing = [p for p in self._expected if not any(re.search(p, record) for record in loud)]
        if missing:
            raise MountError(f"not in the log: {missing}\n{text}")

    def unmount(self) -> None:
        """Unmount as a user does; CalledProcessError while the mount is busy."""
        subprocess.run(["umount", "--", self.path], check=True, timeout=TIMEOUT_S)

    def signal(self, signum: int) -> None:
        self.process.send_signal(signum)

    def signal_all(self, signum: int) -> list[int]:
        """Send a signal to rbdfs and then to the processes that it has started; return these."""
        try:
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        except FileNotFoundError:
            children = []
        self.signal(signum)
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), signum)
        return [int(child) for child in children]

    def wait(self, timeout: float = TIMEOUT_S) -> int:
        """The exit code; TimeoutExpired if rbdfs has not ended after `timeout` s."""
        return self.process.wait(timeout)

    def _kill(self) -> None:
        if self._process is not None:
            children = self.signal_all(signal.SIGKILL)
            self._process.wait(TIMEOUT_S)
            for child in children:
                wait_for_end(child)


def _is_loud(record: str) -> bool:
    found = _RECORD.match(record)
    if found is None:
        return bool(record)
    return found[1] not in _QUIET or record.count("\n") > 1


@dataclass(frozen=True)
class Mounting:
    """Makes the mounts of a test: the one place where their command lines are put together.

    Attributes:
        directory: an empty directory for mount points and logs.
        options: `-o` options of every mount.
    """

    ceph: Ceph
    directory: Path
    options: Sequence[str] = ()

    def command(self, source: str | None, mountpoint: Path | str, *arguments: str) -> list[str]:
        """The command line that mounts `source`, as a daemon unless the arguments say `-f`.

        None is all pools.
        """
        options = [argument for option in self.options for argument in ("-o", option)]
        conf = ["-c", str(self.ceph.conf)]
        what = ["--all-pools", "--"] if source is None else ["--", source]
        return [str(RBDFS), *conf, *options, *arguments, *what, str(mountpoint)]

    def mountpoint(self, name: str = "mnt") -> Path:
        path = self.directory / name
        path.mkdir()
        return path

    def __call__(
        self,
        source: str | None,
        *arguments: str,
        mountpoint: Path | None = None,
        exit_code: int | None = 0,
        lifetime_s: float = LIFETIME_S,
        program: Sequence[str] = (),
    ) -> Mount:
        """A mount, to be entered. `program` starts rbdfs in another way than its script."""
        unique = uuid.uuid4().hex[:8]
        path = mountpoint or self.mountpoint(f"mnt-{unique}")
        command = self.command(source, path, "-f", *arguments)
        if program:
            command[:1] = program
        return Mount(command, path, self.directory / f"log-{unique}", exit_code, lifetime_s)


@contextlib.contextmanager
def opened(path: Path | str, flags: int) -> Iterator[int]:
    """A file descriptor."""
    descriptor = os.open(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def opened_and_lost(path: Path | str, flags: int) -> Iterator[int]:
    """As opened(), for a file whose close(2) may tell that it was lost."""
    descriptor = os.open(path, flags)
    try:
        yield descriptor
    finally:
        with contextlib.suppress(OSError):
            os.close(descriptor)
