"""What takes the lines of the log: a file, the journal, syslog or stderr.

Each raises what keeps it from taking one: who gives them the lines counts what is lost.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import logging.handlers
import os
import socket
import sys
from typing import TYPE_CHECKING, TextIO

from rbdfs.errors import UserError

if TYPE_CHECKING:
    from io import TextIOWrapper
    from pathlib import Path

    from rbdfs.config.mount_options import MountOptions

IDENTIFIER = "rbdfs"
_SYSLOG = "/dev/log"
_JOURNAL = "/run/systemd/journal/socket"
FILE_FORMAT = f"%(asctime)s {IDENTIFIER}[%(process)d] %(levelname)s %(message)s"
# All that there are: the journal trusts no file that may still change.
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
# Of syslog(3).
_PRIORITIES = {
    logging.DEBUG: 7,
    logging.INFO: 6,
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 2,
}


class _Raising(logging.Handler):
    """A handler that raises what those of the standard library keep to themselves."""

    def handleError(self, record: logging.LogRecord) -> None:
        # Called while the error is handled.
        error = sys.exc_info()[1]
        if error is not None:
            raise error


class _Stream(_Raising, logging.StreamHandler[TextIO]):
    pass


class _Syslog(_Raising, logging.handlers.SysLogHandler):
    """syslog, which has a time and a level of its own for each line."""

    def __init__(self) -> None:
        super().__init__(_SYSLOG, facility=logging.handlers.SysLogHandler.LOG_DAEMON)
        self.ident = f"{IDENTIFIER}[{os.getpid()}]: "


class _Journal(_Raising):
    """systemd's journal, by its native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL).

    sd_journal_sendv(3), which python3-systemd calls, reports success where the journal is away
    (ENOENT): nobody would tell that lines are missing. *fields* are those of every entry.
    """

    def __init__(self, fields: dict[str, str]) -> None:
        super().__init__()
        self._fields = fields | {
            "SYSLOG_IDENTIFIER": IDENTIFIER,
            "SYSLOG_PID": str(os.getpid()),
            "SYSLOG_FACILITY": "3",
        }
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def emit(self, record: logging.LogRecord) -> None:
        fields = self._fields | {
            "MESSAGE": self.format(record),
            "PRIORITY": str(_PRIORITIES.get(record.levelno, 5)),
            "LOGGER": record.name,
        }
        if image := getattr(record, "image", None):
            fields["RBDFS_IMAGE"] = image
        entry = b"".join(_field(name, value) for name, value in fields.items())
        try:
            # By its address each time: it may have been started anew.
            self._socket.sendto(entry, _JOURNAL)
        except OSError as exc:
            if exc.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                raise
            self._send_in_memory(entry)

    def _send_in_memory(self, entry: bytes) -> None:
        """Hand over an entry that no datagram has room for, as one sealed file in memory."""
        with os.fdopen(os.memfd_create("rbdfs-entry", os.MFD_ALLOW_SEALING), "wb") as memory:
            memory.write(entry)
            memory.flush()
            fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEALS)
            rights = (
                socket.SOL_SOCKET,
                socket.SCM_RIGHTS,
                memory.fileno().to_bytes(4, sys.byteorder),
            )
            self._socket.sendmsg([], [rights], 0, _JOURNAL)

    def close(self) -> None:
        self._socket.close()
        super().close()


def _field(name: str, value: str) -> bytes:
    data = value.encode("utf-8", "backslashreplace")
    if b"\n" in data:
        return name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"
    return name.encode() + b"=" + data + b"\n"


class _LogFile(_Raising, logging.handlers.WatchedFileHandler):
    """A file that others cannot read, also the one that is made after a rotation."""

    def __init__(self, path: Path) -> None:
        # abspath(), through which the standard library takes it, knows no symbolic link.
        above = ".." in path.parts
        super().__init__(os.path.join(os.path.realpath(path.parent), path.name) if above else path)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except Exception:
            # Without what it still holds of lines that are told to be missing. The next line opens
            # the file anew.
            stream, self.stream = self.stream, None
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
            raise

    def _open(self) -> TextIOWrapper:
        return open(self.baseFilename, "a", errors="backslashreplace", opener=_opened)


def _opened(path: str, flags: int) -> int:
    # 0640: names of images and addresses of clients are nobody else's business.
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, flags | os.O_EXCL, 0o640)
        os.fchmod(descriptor, 0o640)
        return descriptor
    return os.open(path, flags)


def _stderr_is_the_journal() -> bool:
    """Tell whether stderr leads there, as systemd.exec(5) says of JOURNAL_STREAM."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(2)
    except OSError:
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))


def target(options: MountOptions) -> logging.Handler:
    """Return what is to have the log of a mount; raise UserError where the file cannot be it.

    In the foreground that is stderr, or the journal where stderr leads there; for a daemon it is
    the journal, else syslog.
    """
    if options.log_file is not None:
        try:
            return _with_time(_LogFile(options.log_file))
        except OSError as exc:
            raise UserError(f"cannot write log file {options.log_file}: {exc.strerror}") from exc
    if _stderr_is_the_journal() if options.foreground else os.path.exists(_JOURNAL):
        return _Journal({"RBDFS_MOUNT": options.mountpoint, "RBDFS_SOURCE": str(options.source)})
    if not options.foreground and os.path.exists(_SYSLOG):
        with contextlib.suppress(OSError):
            return _Syslog()
    stream = _with_time(_Stream())
    if not options.foreground:
        # Until the mount is usable this still is the caller's terminal.
        stream.setLevel(logging.WARNING)
    return stream


def _with_time(handler: logging.Handler) -> logging.Handler:
    handler.setFormatter(logging.Formatter(FILE_FORMAT))
    return handler
