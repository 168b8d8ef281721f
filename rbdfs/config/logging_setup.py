"""Where the log goes, and that whoever logs never waits for it.

A disk that hangs, a full pipe, a syslog daemon that is stopped: each would stop the thread that
serves the mount with its next line. So a thread of its own writes, from a queue that drops what it
has no room for.
"""

from __future__ import annotations

import copy
import logging
import os
import queue
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NoReturn

from rbdfs.config.log_ring import Ring, leave_stacks
from rbdfs.config.log_targets import FILE_FORMAT, target
from rbdfs.model.printable import printable

if TYPE_CHECKING:
    from rbdfs.config.mount_options import MountOptions

# Records that wait to be written. At a line a request of `-d` that is a second of a busy mount.
_ROOM = 4096
# How long the end of a process waits for its log, in seconds.
_LAST_WORDS_S = 2.0
# A record of a kind that was seen so recently, in seconds, is counted; and how many kinds.
_SAME_S = 60.0
_KINDS = 1024
_KIND = "repeats"


def repeats(error: OSError) -> dict[str, Any]:
    """Return the ``extra=`` of a record of *error*, of which one a file and errno is enough.

    A guest with a failed disk asks thousands of times a second. Those that follow within a minute
    of the last are counted, and the count is in the next line of the kind, or the last of the log.
    """
    # The message of a failure begins with the image spec.
    spec = str(error.strerror).partition(": ")[0]
    return {_KIND: (error.errno, spec)} | about(spec)


def about(spec: str) -> dict[str, Any]:
    """Return the ``extra=`` of a record about image *spec*, a field of its entry in the journal."""
    return {"image": spec}


class Queued(logging.Handler):
    """Has a thread of its own give the records to *target*, each beginning with *tag*."""

    def __init__(self, target: logging.Handler, tag: str = "") -> None:
        super().__init__(target.level)
        self._target = target
        self._tag = tag
        # A signal handler that logs may interrupt who is putting a record there: put() allows that.
        self._records: queue.SimpleQueue[logging.LogRecord | threading.Event] = queue.SimpleQueue()
        self._dropped = 0
        # By kind: the last record, when it came, and how many were not written.
        self._kinds: OrderedDict[object, tuple[logging.LogRecord, float, int]] = OrderedDict()
        threading.Thread(target=self._write, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            # Here, because what it is made of may be another by the time it is written.
            text, record = self._tag + self.format(record), copy.copy(record)
            record.msg, record.args = text, None
            record.exc_info = record.exc_text = record.stack_info = None
        except Exception:
            self.handleError(record)
            return
        if not self._counted(record):
            self._queue(record)

    def _queue(self, record: logging.LogRecord) -> None:
        if self._records.qsize() < _ROOM:
            self._records.put(record)
        else:
            self._dropped += 1

    def _counted(self, record: logging.LogRecord) -> bool:
        """Tell whether one like it was written a moment ago: then this one is only counted."""
        kind = getattr(record, _KIND, None)
        if kind is None or record.levelno < logging.WARNING:
            return False
        now = time.monotonic()
        _, last, count = self._kinds.pop(kind, (record, 0.0, 0))
        counted = last > 0.0 and now - last < _SAME_S
        if not counted and count:
            record.msg = f"{record.msg} (and {count} times before)"
        self._kinds[kind] = (record, now, count + 1 if counted else 0)
        if len(self._kinds) > _KINDS:
            self._kinds.popitem(last=False)
        return counted

    def _write(self) -> None:
        lost, reason = 0, ""
        while True:
            record = self._records.get()
            if isinstance(record, threading.Event):
                record.set()
                continue
            if self._dropped:
                lost, self._dropped = lost + self._dropped, 0
                reason = reason or "the log stood still"
            try:
                if lost:
                    self._target.handle(
                        _note("%s%d lines are missing: %s", self._tag, lost, reason)
                    )
                    lost, reason = 0, ""
                self._target.handle(record)
            except Exception as exc:
                # That may pass: a full disk, a directory that is away. The next line tells of it.
                lost, reason = lost + 1, str(exc)

    def last_words(self) -> bool:
        """Have everything written; return False where that takes too long."""
        for last, _, count in self._kinds.values():
            if count:
                last.msg = f"{last.msg} ({count} times more)"
                self._queue(last)
        self._kinds.clear()
        written = threading.Event()
        self._records.put(written)
        return written.wait(_LAST_WORDS_S)


def _note(text: str, *args: object) -> logging.LogRecord:
    return logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, args, None)


def configure_logging(options: MountOptions) -> None:
    """Log to the log file, else to stderr in the foreground, and as a daemon to journal or syslog.

    It starts a thread: a process that forks configures it afterwards. Raises UserError.
    """
    # A full disk or a closed terminal must not stop the serving, nor fill stderr.
    logging.raiseExceptions = False
    logging.captureWarnings(capture=True)
    tag = printable(f"{options.mountpoint} ({options.source}): ")
    ring = Ring()
    # Of what is missing elsewhere, too. Its mount is known to who looks at it.
    ring.setFormatter(logging.Formatter(FILE_FORMAT))
    handlers = [ring, Queued(target(options), tag)]
    logging.basicConfig(handlers=handlers, level=options.level.upper(), format="%(message)s")
    leave_stacks()
    # pyfuse3 and the fork of tasks in it are chatty at this level, a line a request.
    logging.getLogger("pyfuse3").setLevel(max(logging.INFO, logging.getLogger().level))


def flush() -> bool:
    """Have written what was logged until now; return False where that takes too long."""
    handlers = [each for each in logging.getLogger().handlers if isinstance(each, Queued)]
    return all(each.last_words() for each in handlers)


def finish(exit_code: int) -> int:
    """Have the log written and return *exit_code*; leave at once where the log cannot be written.

    The interpreter's own end would wait for it without an end.
    """
    if not flush():
        os._exit(exit_code)
    return exit_code


def leave(exit_code: int) -> NoReturn:
    """End this process at once, whatever its threads are doing, with its log written."""
    os._exit(finish(exit_code))
