"""The mounts that `rbdfs top` is about: the one that was named, or all of this host."""

from __future__ import annotations

import select
import time
from typing import TYPE_CHECKING

from rbdfs.commands.top_figures import Condition, MountLoad
from rbdfs.commands.watched_mount import WatchedMount
from rbdfs.errors import UserError
from rbdfs.keeper.command_client import Gone, entry_at
from rbdfs.kernel.mount import rbdfs_entries

if TYPE_CHECKING:
    from types import TracebackType

    from _typeshed import HasFileno

    from rbdfs.kernel.mount import Entry


class WatchedMounts:
    """Those that are watched, as a context; raises UserError on entering where there is none.

    Attributes:
        ends: what is to be said of those that have ended, and whether it was no clean end.
    """

    def __init__(self, path: str | None, interval_s: float) -> None:
        self._path = path
        self._interval_s = interval_s
        self._watched: list[WatchedMount] = []
        # Of which nothing is told, and why.
        self._others: dict[tuple[str, str], MountLoad] = {}
        self.ends: list[tuple[str, bool]] = []

    def __enter__(self) -> WatchedMounts:
        if self._path is not None:
            self._watch(entry_at(self._path, "top"))
            return self
        self._look_around()
        if not self._watched:
            reasons = [each.condition.last_fault for each in self._others.values()]
            raise UserError("; ".join(reasons) or "there is no mount of rbdfs here")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for each in self._watched:
            each.close()

    @property
    def over(self) -> bool:
        """Whether all have ended that were watched."""
        return not self._watched

    def ask(self, patience_s: float) -> None:
        """Ask each how it does, and wait no longer than that for what they answer.

        Those that are new are watched from now on.
        """
        if self._path is None:
            self._look_around()
        for each in self._watched:
            each.ask()
        until_s = time.monotonic() + patience_s
        while any(each.asked for each in self._watched):
            if (left_s := until_s - time.monotonic()) <= 0:
                return
            self.wait(left_s)

    def loads(self) -> list[MountLoad]:
        """Return the load of each since the last call."""
        return [*(each.load() for each in self._watched), *self._others.values()]

    def wait(self, timeout_s: float, *others: HasFileno) -> set[HasFileno]:
        """Wait for what keepers say, and take it in; return which of *others* can be read."""
        poll = select.poll()
        sockets = [sock for each in self._watched for sock in each.sockets()]
        for one in (*sockets, *others):
            poll.register(one, select.POLLIN)
        found = {descriptor for descriptor, _ in poll.poll(max(timeout_s, 0.0) * 1000)}
        if any(sock.fileno() in found for sock in sockets):
            self._hear()
        return {other for other in others if other.fileno() in found}

    def _hear(self) -> None:
        for each in self._watched:
            each.hear()
            if each.end is not None:
                self.ends.append((f"{each.entry.mountpoint}: {each.end}", each.failed))
                each.close()
        # Its number may be that of another mount by now.
        self._watched = [each for each in self._watched if each.end is None]

    def _watch(self, entry: Entry) -> None:
        self._watched.append(WatchedMount(entry, self._interval_s))

    def _look_around(self) -> None:
        """Watch the mounts that are new, and forget those of which nothing was told."""
        found = {(entry.device, entry.mountpoint): entry for entry in rbdfs_entries()}
        known = {(each.entry.device, each.entry.mountpoint) for each in self._watched}
        self._others = {key: each for key, each in self._others.items() if key in found}
        for key in found.keys() - known - self._others.keys():
            try:
                self._watch(found[key])
            except UserError as exc:
                state = "dead" if isinstance(exc, Gone) else "unknown"
                entry, why = found[key], Condition(state, last_fault=str(exc))
                self._others[key] = MountLoad(entry.mountpoint, entry.source, why)
