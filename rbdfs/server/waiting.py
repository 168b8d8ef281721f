"""What waits for the cluster: in the log once when it has for long, and once when it is over."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from rbdfs.ceph.single_flight import SingleFlight
from rbdfs.config.logging_setup import about
from rbdfs.errors import NotOpen
from rbdfs.model.printable import first_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable

    from rbdfs.files.data_path import DataPath
    from rbdfs.files.freshness import Freshness
    from rbdfs.fuse.operations import Operations
    from rbdfs.model.entry import Entry

    Trouble = Callable[[str], Awaitable[str | None]]
    """Cluster.trouble()."""

log = logging.getLogger(__name__)

_PERIOD_S = 1.0
# What is told of in the log, and what in the status, in seconds.
_LONG_S = 10.0
_SLOW_S = 2.0
# Images that a line of the log names, and a status.
_NAMED = 8
_LISTED = 256
# How long those who may know the reason are asked, each, in seconds.
_REASON_S = 3.0


@dataclass(slots=True)
class _Told:
    since: float
    reason: str


class Waiting:
    """Looks every second at what is under way in one mount."""

    def __init__(
        self, operations: Operations, path: DataPath, freshness: Freshness, trouble: Trouble
    ) -> None:
        self._operations = operations
        self._path = path
        self._freshness = freshness
        self._trouble = trouble
        # By image spec, what the log says of.
        self._told: dict[str, _Told] = {}
        # Who has locked an image, by its key; as long as run() runs.
        self._owners: SingleFlight[str | None]

    async def run(self) -> None:
        """Look, until cancelled."""
        async with trio.open_nursery() as nursery:
            # An image has to be opened for it, which may take for ever and cannot be cancelled.
            self._owners = SingleFlight(0.0, 1, nursery=nursery)
            while True:
                await trio.sleep(_PERIOD_S)
                try:
                    await self._look()
                except Exception:
                    # Nobody awaits this task: what it raised would take the mount down.
                    log.exception("looking at what waits failed")

    def report(self) -> dict[str, Any]:
        """Return what a status tells: for how long the oldest request waits, and the images."""
        oldest, files = self._path.waiting(_SLOW_S)
        oldest = max([oldest, *(request.seconds for request in self._operations.running)])
        waits = sorted(self._waits(files).items(), key=lambda item: -item[1][0])
        return {
            "oldest_request_seconds": round(oldest, 1),
            "waiting": [
                {
                    "image": spec,
                    "seconds": round(seconds, 1),
                    "reason": self._told[spec].reason if spec in self._told else None,
                }
                for spec, (seconds, _) in waits[:_LISTED]
            ],
        }

    def _waits(self, files: dict[int, float]) -> dict[str, tuple[float, Entry]]:
        """Return for how many seconds each image waits, by its spec, and one entry of it.

        *files* are those that wait in the data path.
        """
        mounted = self._operations.mounted
        found: list[tuple[float, Entry | None]] = []
        for fh, seconds in files.items():
            # It may be closed by now, and then has been answered.
            with contextlib.suppress(NotOpen):
                found.append((seconds, mounted.handles[fh].entry))
        running = self._operations.running
        found += [(each.seconds, running.entry(each)) for each in running if each.seconds > _SLOW_S]
        found += [(seconds, shared.entry) for shared, seconds in self._freshness.waiting()]
        waits: dict[str, tuple[float, Entry]] = {}
        for seconds, entry in found:
            if entry is not None and seconds > _SLOW_S:
                spec = entry.whole.spec or "/"
                waits[spec] = max(waits.get(spec, (0.0, entry)), (seconds, entry), key=_seconds)
        return waits

    async def _look(self) -> None:
        _, files = self._path.waiting(_SLOW_S)
        waits = self._waits(files)
        over = [spec for spec in self._told if spec not in waits]
        if over:
            now = trio.current_time()
            longest = max(now - self._told.pop(spec).since for spec in over)
            # Who has waited may have been answered, or have given up.
            wait = _wait(over)
            log.info(
                "%s no longer %s for the cluster, after %.0f s",
                *(first_of(over, _NAMED), wait, longest),
                **_of(over),
            )
        begun = {
            spec: wait
            for spec, wait in waits.items()
            if wait[0] > _LONG_S and spec not in self._told
        }
        if begun:
            await self._tell(begun)

    async def _tell(self, begun: dict[str, tuple[float, Entry]]) -> None:
        """Log that these wait, and why as far as that is known: a line for each pool."""
        pools: dict[str, dict[str, tuple[float, Entry]]] = {}
        for spec, (seconds, entry) in begun.items():
            pools.setdefault(entry.pool, {})[spec] = (seconds, entry)
        for pool, waits in pools.items():
            seconds, entry = max(waits.values(), key=_seconds)
            since = trio.current_time() - seconds
            reason = await self._reason(pool, entry)
            for spec in waits:
                self._told[spec] = _Told(since, reason)
            log.warning(
                "%s %s for the cluster since %.0f s: %s",
                *(first_of(waits, _NAMED), _wait(waits), seconds, reason),
                **_of(waits),
            )

    async def health(self, pool: str) -> str:
        """Return what the monitors say of requests to *pool*: that nothing is wrong, or what is."""
        try:
            return await self._asked(pool) or "nothing keeps requests waiting"
        except OSError as exc:
            return f"the monitors do not say ({exc.strerror})"

    async def _asked(self, pool: str) -> str | None:
        """Return what the monitors know to be wrong, or that they do not answer; raise OSError."""
        with trio.move_on_after(_REASON_S):
            return await self._trouble(pool)
        return "the monitors do not answer"

    async def _reason(self, pool: str, entry: Entry) -> str:
        """Return what keeps *entry* waiting, as far as anybody says."""
        mounted = self._operations.mounted
        shared = mounted.handles.shared(entry)
        if shared is not None and shared.gate.is_frozen:
            return "it is being moved, and has to be copied first"
        try:
            if (trouble := await self._asked(pool)) is not None:
                return trouble
        except OSError as exc:
            return f"the monitors do not say why ({exc.strerror})"
        with trio.move_on_after(_REASON_S):
            owner = await self._owners.get(entry.whole_key, partial(self._lock_owner, entry))
            if owner is not None:
                return f"locked by {owner}"
        return "the cluster does not say why"

    async def _lock_owner(self, entry: Entry) -> str | None:
        """Return the address of another client that has the image locked."""
        if entry.is_directory or entry.is_snapshot:
            return None
        try:
            owner = await self._operations.mounted.xattrs.value(entry, b"user.rbd.lock_owner")
        except OSError:
            return None
        address = owner.decode("utf-8", "backslashreplace").partition(" ")[0]
        own = self._path.opener.addresses
        return address if address and address not in own else None


def _seconds(wait: tuple[float, Entry]) -> float:
    return wait[0]


def _wait(specs: Collection[str]) -> str:
    return "waits" if len(specs) == 1 else "wait"


def _of(specs: Iterable[str]) -> dict[str, Any]:
    first, *others = specs
    return {} if others else {"extra": about(first)}
