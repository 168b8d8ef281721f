"""The command line: a mount, or a word with the keeper of one; failures in one line."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import os
import signal
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from rbdfs.config.absolute_path import absolute
from rbdfs.config.answers import answers
from rbdfs.config.command_line import asks_for_json, hinted, parse
from rbdfs.config.extras import require_metrics
from rbdfs.config.logging_setup import configure_logging, finish, flush, leave
from rbdfs.config.secrets import conceal_arguments
from rbdfs.errors import UserError
from rbdfs.keeper.daemonise import Starter, daemonise, open_standard_descriptors
from rbdfs.keeper.keeper import Keeper
from rbdfs.kernel.mountpoint import check_mountpoint, resolve

if TYPE_CHECKING:
    from rbdfs.config.command_line import Request
    from rbdfs.config.mount_options import MountOptions

# What no wheel of rbdfs brings along, and a server does not start without.
_SERVERS = ("rados", "rbd", "pyfuse3")

log = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Mount, serve, and return the exit code; without -f, return in the daemon only."""
    if arguments is None:
        arguments = sys.argv[1:]
        conceal_arguments()
        _leave_the_caller()
    open_standard_descriptors()
    sys.stdout = answers()
    starter = Starter(json=asks_for_json(arguments))
    try:
        request = _parsed(arguments)
        if request.options is None:
            return _command(request)
        _require_modules(request.options)
        _keep_ceph_conf(request.options)
        options = replace(request.options, mountpoint=resolve(request.options.mountpoint))
        starter.facts = {"source": str(options.source), "mountpoint": options.mountpoint}
        check_mountpoint(options)
        kept = _native(options)
        if not options.foreground:
            daemonise(starter)
        configure_logging(options)
        if kept:
            return finish(Keeper(options, starter).run())
        # The interpreter's own end would take librbd from threads that are left in it.
        leave(_serve_alone(options, starter))
    except UserError as exc:
        error = hinted(exc, arguments)
    except Exception as exc:
        log.exception("rbdfs ends")
        error = UserError(f"unexpected error: {type(exc).__name__}: {exc}")
    # The last line is why: in the foreground the log goes to the same place.
    flush()
    starter.failed(error)
    return finish(error.exit_code)


def _parsed(arguments: list[str]) -> Request:
    """Return what the command line asks for; what --help tells has been written then."""
    try:
        return parse(arguments)
    finally:
        sys.stdout.flush()


def _leave_the_caller() -> None:
    """Keep no descriptor of the caller's."""
    # An image that is open on one would stay locked for as long as this mount lives.
    for descriptor in sorted(int(name) for name in os.listdir("/proc/self/fd")):
        if descriptor > 2:
            with contextlib.suppress(OSError):
                os.close(descriptor)


def _keep_ceph_conf(options: MountOptions) -> None:
    """Have CEPH_CONF mean the same in a daemon; raise UserError where it means nothing here."""
    # librados reads it when the cluster is reached, where no file was named in another way.
    if options.ceph.conf is None and (paths := os.environ.get("CEPH_CONF")):
        os.environ["CEPH_CONF"] = ",".join(map(absolute, paths.split(",")))


def _command(request: Request) -> int:
    # As any command in a pipe: `rbdfs status MNT | head -3` is no failure.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    # Nor is Ctrl-C while it waits, for whoever has not had it ignored.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    # A mount has no use for any of it.
    command = importlib.import_module(f"rbdfs.commands.{request.command}")
    code: int = command.run(request)
    sys.stdout.flush()
    return code


def _require_modules(options: MountOptions) -> None:
    """Raise UserError where this Python does not have what a server imports."""
    # Looked for, not imported: librbd would come along, and the keeper is to stay small.
    absent = [name for name in _SERVERS if importlib.util.find_spec(name) is None]
    if absent:
        raise UserError(
            f"{sys.executable} has no {' and '.join(absent)}: rados and rbd are Debian's"
            " python3-rados and python3-rbd, which a venv has with --system-site-packages"
        )
    if options.metrics is not None:
        require_metrics("--metrics")


def _native(options: MountOptions) -> bool:
    """Whether the native data path is to serve the mount, and so a keeper can hold it.

    Raises UserError where it was asked for and is not built.
    """
    built = importlib.util.find_spec("rbdfs.datapath.native") is not None
    if options.data_path == "native" and not built:
        raise UserError("the native data path was not built (contrib/setup builds it)")
    return built and options.data_path != "python"


def _serve_alone(options: MountOptions, starter: Starter) -> int:
    """Serve through pyfuse3 alone, in this process; nobody goes on where it dies."""
    import trio

    from rbdfs.server import lifecycle
    from rbdfs.server.keeper_link import Unkept
    from rbdfs.server.meters import Inherited, shared_meters

    if options.data_path is None:
        log.info("the native data path was not built: everything goes through pyfuse3")
    options = replace(options, data_path="python")
    with shared_meters(options, Inherited()) as meters:
        code = trio.run(lifecycle.serve, options, Unkept(options, starter), None, meters)
    return code or 0
