"""Where the log goes."""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
from typing import TYPE_CHECKING

from rbdfs.errors import UserError

if TYPE_CHECKING:
    from rbdfs.config.mount_options import MountOptions

_SYSLOG = "/dev/log"


def _log_handler(options: MountOptions) -> logging.Handler:
    if options.log_file is not None:
        try:
            # 0640: names of images and addresses of clients are nobody else's business.
            os.close(os.open(options.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640))
            return logging.handlers.WatchedFileHandler(options.log_file)
        except OSError as exc:
            raise UserError(f"cannot write log file {options.log_file}: {exc.strerror}") from exc
    if not options.foreground and os.path.exists(_SYSLOG):
        with contextlib.suppress(OSError):
            return logging.handlers.SysLogHandler(_SYSLOG)
    stream = logging.StreamHandler()
    if not options.foreground:
        # Until the mount is usable this still is the caller's terminal.
        stream.setLevel(logging.WARNING)
    return stream


def configure_logging(options: MountOptions) -> None:
    """Log to the log file, else to stderr in the foreground and to syslog as a daemon."""
    # A full disk or a closed terminal must not stop the serving, nor fill stderr.
    logging.raiseExceptions = False
    logging.captureWarnings(capture=True)
    logging.basicConfig(
        handlers=[_log_handler(options)],
        level=logging.DEBUG if options.debug else logging.INFO,
        format="%(asctime)s rbdfs[%(process)d] %(levelname)s %(name)s: %(message)s",
    )
    # pyfuse3 and the fork of tasks in it are chatty at this level, a line a request.
    logging.getLogger("pyfuse3").setLevel(logging.INFO)
