"""The meters that a server counts in: the keeper's, which the next one goes on with."""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import socket
import time
from typing import TYPE_CHECKING, NamedTuple

from rbdfs.keeper.estate import new_meters
from rbdfs.keeper.meters_client import snapshot_in
from rbdfs.keeper.metrics import Metrics
from rbdfs.model import figures, meters_layout
from rbdfs.model.metering import Metering

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rbdfs.config.mount_options import MountOptions
    from rbdfs.keeper.estate import Estate

log = logging.getLogger(__name__)


class SharedMeters(NamedTuple):
    """Memory of meters, for the data path by its descriptor, and for Python."""

    descriptor: int
    metering: Metering


class Inherited(NamedTuple):
    """What the keeper has for metrics: memory, and a listener for who scrapes them.

    There is none for a mount without a keeper, nor from one that is older than they are.
    """

    memory: int | None = None
    listener: int | None = None


@contextlib.contextmanager
def shared_meters(options: MountOptions, inherited: Inherited) -> Iterator[SharedMeters]:
    """Yield the memory that the keeper has made, or where it has none, one of this server's own.

    Who scrapes the mount is answered meanwhile, if somebody is to. It is to be around trio.run(),
    because its end waits for answers. Raises OSError, and UserError where nobody can listen.
    """
    with contextlib.ExitStack() as stack:
        listener = inherited.listener
        if options.metrics is not None and listener is None:
            # Without a keeper: the memory that belongs to it is not used.
            listener = stack.enter_context(Metrics(options)).listener
        shared = stack.enter_context(_memory(inherited.memory))
        _forget_state(shared.metering)
        if listener is not None:
            stack.enter_context(_answering(options, listener, shared.descriptor))
        yield shared


@contextlib.contextmanager
def _answering(options: MountOptions, listener: int, memory: int) -> Iterator[None]:
    try:
        from rbdfs.metrics.endpoint import Endpoint
        from rbdfs.metrics.exposition import Mount, Reading, registry
    except ImportError as exc:
        # It was there when the mount was made.
        log.error("nobody can scrape the metrics: %s", exc)
        yield
        return
    mount = Mount(options.mountpoint, str(options.source), options.metrics_images)
    metrics = registry(mount, lambda: Reading(snapshot_in(memory)))
    with socket.socket(fileno=os.dup(listener)) as sock, Endpoint(sock, metrics).running():
        yield


@contextlib.contextmanager
def _memory(inherited: int | None) -> Iterator[SharedMeters]:
    descriptor = new_meters() if inherited is None else inherited
    try:
        metering = _mapped(descriptor)
    except ValueError as exc:
        log.warning("nobody can read what this server counts, until one mounts anew: %s", exc)
        os.close(descriptor)
        descriptor = new_meters()
        metering = _mapped(descriptor)
    try:
        yield SharedMeters(descriptor, metering)
    finally:
        os.close(descriptor)


def _forget_state(metering: Metering) -> None:
    """Keep what the servers before this one have counted, and nothing of what they were doing."""
    states = [name for name, kind in figures.KINDS.items() if not kind.counter]
    for name in (figures.READY, figures.TURN_BEGUN, *states):
        metering.figure(name).value = 0
    for name in figures.KINDS:
        # All are there from the beginning.
        metering.figure(name)


def count_start(metering: Metering, predecessor: Estate | None) -> None:
    """Note that a server is ready to serve what *predecessor* has left, if there was one."""
    metering.figure(figures.READY).value = 1
    metering.figure("server_started").value = time.time()
    if predecessor is not None:
        metering.figure(f"restarts_{'crash' if predecessor.crashed else 'asked'}").add()


def _mapped(descriptor: int) -> Metering:
    # It is never unmapped: whoever is late at the end of the server may count something still.
    if os.fstat(descriptor).st_size != meters_layout.BYTES:
        raise ValueError("the keeper's meters are of another size")
    return Metering(mmap.mmap(descriptor, meters_layout.BYTES))
