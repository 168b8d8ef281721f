"""The command line: arguments to MountOptions, failures to one line and an exit code."""

from __future__ import annotations

import argparse
import contextlib
import logging
import logging.handlers
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import trio

import rbdfs
from rbdfs import mount
from rbdfs.daemon import Starter, daemonise
from rbdfs.errors import EXIT_FAILURE, EXIT_USAGE, UserError
from rbdfs.options import CephSettings, MountOptions, apply_options, parse_seconds

log = logging.getLogger(__name__)

_SYSLOG = "/dev/log"
_EPILOG = """\
Exit codes: 0 mounted (with -f: served, and ended on request); 1 nothing is mounted, or
the end was not clean; 2 the command line makes no sense.
Unmount with: umount MOUNTPOINT, or fusermount3 -u MOUNTPOINT.
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see rbdfs --help)", EXIT_USAGE)


def _seconds(text: str) -> float:
    try:
        return parse_seconds(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"not a number of seconds: {text}") from None


def _argument_parser() -> _Parser:
    parser = _Parser(
        prog="rbdfs",
        description="Mount a Ceph pool as a directory: every RBD image is a file, every "
        "snapshot a read-only file beside it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("source", metavar="POOL[/NAMESPACE]")
    parser.add_argument("mountpoint", metavar="MOUNTPOINT")
    parser.add_argument("-c", "--conf", type=Path, help="Ceph configuration file")
    parser.add_argument("--id", metavar="ID", help="connect as client.ID (default: admin)")
    parser.add_argument("-k", "--keyring", type=Path, help="file with the client's key")
    parser.add_argument("-m", metavar="HOST", dest="mon_host", help="monitor addresses")
    parser.add_argument("--cluster", metavar="NAME", help="cluster name (default: ceph)")
    parser.add_argument(
        "-o",
        metavar="OPT[,OPT...]",
        dest="options",
        action="append",
        default=[],
        help="mount options, and settings of Ceph as KEY=VALUE",
    )
    parser.add_argument("-r", "--read-only", action="store_true", help="same as -o ro")
    parser.add_argument("-f", "--foreground", action="store_true", help="do not daemonise")
    parser.add_argument("-d", "--debug", action="store_true", help="log every decision")
    parser.add_argument("--log-file", type=Path, metavar="PATH", help="log here")
    parser.add_argument(
        "--connect-timeout",
        type=_seconds,
        metavar="SECONDS",
        help="how long reaching the cluster may take (default: 30)",
    )
    parser.add_argument("--version", action="version", version=f"rbdfs {rbdfs.__version__}")
    return parser


def parse_arguments(arguments: list[str]) -> MountOptions:
    """Return what the command line asks for; raise UserError where it cannot mean anything.

    Paths become absolute, because a daemon leaves the working directory.
    """
    parsed = _argument_parser().parse_args(arguments)
    pairs = []
    if parsed.mon_host:
        pairs.append(("mon_host", parsed.mon_host))
    if parsed.keyring:
        pairs.append(("keyring", str(parsed.keyring.absolute())))
    options = apply_options(MountOptions(source=parsed.source), parsed.options)
    ceph = options.ceph
    return replace(
        options,
        # os.path, not Path: "" and a trailing slash are the user's, to be told of.
        mountpoint=os.path.abspath(parsed.mountpoint) if parsed.mountpoint else "",
        ceph=CephSettings(
            user=parsed.id or ceph.user,
            conf=(conf := parsed.conf or ceph.conf) and conf.absolute(),
            cluster=parsed.cluster or ceph.cluster,
            pairs=(*pairs, *ceph.pairs),
        ),
        read_only=options.read_only or parsed.read_only,
        foreground=parsed.foreground,
        debug=parsed.debug,
        log_file=parsed.log_file and parsed.log_file.absolute(),
        connect_timeout_s=parsed.connect_timeout or options.connect_timeout_s,
    )


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


def main(arguments: list[str] | None = None) -> int:
    """Mount, serve, and return the exit code; without -f, return in the daemon only."""
    starter = Starter()
    try:
        options = parse_arguments(sys.argv[1:] if arguments is None else arguments)
        mount.check_mountpoint(options)
        configure_logging(options)
        if not options.foreground:
            starter = daemonise()
        return trio.run(mount.serve, options, starter.ready)
    except UserError as exc:
        starter.failed(exc)
        return exc.exit_code
    except Exception as exc:
        log.exception("rbdfs ends")
        starter.failed(UserError(f"unexpected error: {type(exc).__name__}: {exc}"))
        return EXIT_FAILURE
