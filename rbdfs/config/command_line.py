"""The command line of a mount, as MountOptions."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import rbdfs
from rbdfs.config.ceph_settings import CephSettings
from rbdfs.config.mount_options import MountOptions, apply_options, parse_seconds
from rbdfs.config.source import resolve_source
from rbdfs.errors import EXIT_USAGE, UserError

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
    parser.add_argument(
        "source",
        nargs="?",
        help="POOL[/NAMESPACE], or rbd:POOL/[NAMESPACE/]IMAGE[@SNAP][:KEY=VALUE...] as QEMU "
        "names one image, to be mounted on a file",
    )
    parser.add_argument("mountpoint", metavar="MOUNTPOINT")
    parser.add_argument("--all-pools", action="store_true", help="mount every pool for rbd")
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


def parse_arguments(arguments: list[str], directory: Path | None = None) -> MountOptions:
    """Return what the command line asks for; raise UserError where it cannot mean anything.

    Paths become absolute, once and here, because a daemon leaves the working directory: that of
    this process, or *directory* where the command line was given in another one.
    """
    directory = directory or Path()
    parsed = _argument_parser().parse_args(arguments)
    if parsed.all_pools == (parsed.source is not None):
        raise UserError("name what to mount: either POOL or --all-pools", EXIT_USAGE)
    pairs = []
    if parsed.mon_host:
        pairs.append(("mon_host", parsed.mon_host))
    if parsed.keyring:
        pairs.append(("keyring", str((directory / parsed.keyring).absolute())))
    options = apply_options(MountOptions(), parsed.options)
    conf = parsed.conf or options.ceph.conf
    ceph = CephSettings(
        user=parsed.id or options.ceph.user,
        conf=conf and (directory / conf).absolute(),
        cluster=parsed.cluster or options.ceph.cluster,
        pairs=(*pairs, *options.ceph.pairs),
    )
    source, ceph = resolve_source(parsed.source, ceph, directory)
    return replace(
        options,
        source=source,
        mountpoint=_absolute(directory, parsed.mountpoint),
        ceph=ceph,
        read_only=options.read_only or parsed.read_only,
        foreground=parsed.foreground,
        debug=parsed.debug,
        log_file=parsed.log_file and (directory / parsed.log_file).absolute(),
        connect_timeout_s=parsed.connect_timeout or options.connect_timeout_s,
    )


def _absolute(directory: Path, mountpoint: str) -> str:
    # os.path, not Path: "" and a trailing slash are the user's, to be told of.
    return os.path.abspath(os.path.join(directory, mountpoint)) if mountpoint else ""
