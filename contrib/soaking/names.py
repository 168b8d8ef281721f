"""Which names there are, as everybody sees them: other users, the other mount, listings."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from soaking.operations import Finding
from soaking.register import UNKNOWN, Register

if TYPE_CHECKING:
    from soaking.allowances import Allowances
    from soaking.operations import Event


class Names:
    """The existence of each name of users' files: changed by its user, seen by all.

    What a mount has changed, it shows at once; what was changed elsewhere, within the time that is
    promised.
    """

    def __init__(self, allowances: Allowances) -> None:
        self._allowances = allowances
        # By path: on each mount.
        self._registers: dict[str, dict[int, Register]] = {}
        self._observed: list[tuple[Event, str, bool]] = []

    def _of(self, path: str) -> dict[int, Register]:
        return self._registers.setdefault(path, {0: Register(False), 1: Register(False)})

    def change(self, path: str, there: bool, event: Event) -> None:
        """A user made or removed a name on its mount."""
        self._change(path, there, event, event.mount)

    def change_elsewhere(self, path: str, there: bool, event: Event) -> None:
        """`rbd` made or removed it."""
        self._change(path, there, event, None)

    def _change(self, path: str, there: bool, event: Event, mount: int | None) -> None:
        for number, register in self._of(path).items():
            late = 0.0
            if number != mount:
                late = self._allowances.seen_within(event.start, event.end)
            register.write(there, event.start, event.end + late)

    def doubt(self, path: str, event: Event) -> None:
        for register in self._of(path).values():
            register.write(UNKNOWN, event.start, math.inf)

    def observe(self, event: Event) -> None:
        """Remember what a listing showed; it is judged when all changes are known."""
        if event.operation.kind == "listing" and event.errno is None:
            pool = event.operation.args["path"]
            for name in event.value:
                if "@" not in name and not name.rpartition("-")[2].startswith("part"):
                    self._observed.append((event, f"{pool}/{name}", True))
            present = set(event.value)
            self._observed += [
                (event, path, False)
                for path in self._paths(pool)
                if path.partition("/")[2] not in present
            ]

    def _paths(self, pool: str) -> list[str]:
        return [path for path in self._registers if path.startswith(f"{pool}/")]

    def findings(self) -> list[Finding]:
        found = []
        for event, path, there in self._observed:
            if path not in self._registers:
                continue
            register = self._registers[path][event.mount]
            if register.explains(there, event.start, event.end):
                continue
            what = "is listed, but is not there" if there else "is there, but is not listed"
            found.append(
                Finding(
                    "wrong listing",
                    f"{event.operation} of user {event.user}: {path} {what}",
                    event.operation.story,
                    f"{'gone' if there else 'missing'} mount {event.mount}",
                    event.user,
                    event.index,
                )
            )
        return found
