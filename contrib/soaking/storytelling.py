"""What the stories of one user are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from soaking.operations import Operation

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

MIB = 1 << 20
# Around pages, objects and requests; a letter, a line, nothing.
SIZES = (0, 1, 6, 511, 512, 4096, 4097, 100_000, 128 << 10, MIB, MIB + 1, 3 * MIB)
# The time for which attributes are remembered here and there, and less.
PAUSES = (0.0, 0.0, 0.0, 0.05, 0.3, 1.0)


class Storytelling:
    """Draws stories by their weights, on names that no other user changes.

    *mapping* says whether files may be mapped into memory.
    """

    def __init__(self, random: random.Random, user: int, *, mapping: bool) -> None:
        self._random = random
        self._user = user
        self._mapping = mapping
        self._version = 0
        self._names = [f"{pool}/u{user}{name}" for pool in "ab" for name in ("x", "y")]
        self._done: list[Operation] = []
        self._weights: dict[Callable[[], None], int] = {}

    @property
    def names(self) -> list[str]:
        return [story.__name__ for story in self._weights]

    def draw(self, count: int) -> list[Operation]:
        """At least *count* operations."""
        stories, weights = list(self._weights), list(self._weights.values())
        while len(self._done) < count:
            story = self._random.choices(stories, weights)[0]
            begun = len(self._done)
            story()
            name = story.__name__
            self._done[begun:] = [
                Operation(operation.kind, operation.args, name) for operation in self._done[begun:]
            ]
            self._add("pause", seconds=self._random.choice(PAUSES))
        return self._done

    def _add(self, kind: str, **args: Any) -> None:
        if kind != "pause" or args["seconds"]:
            self._done.append(Operation(kind, args))

    def _some(self, *choices: Any) -> Any:
        return self._random.choice(choices)

    def _chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def _path(self) -> str:
        return self._random.choice(self._names)

    def _size(self) -> int:
        return self._random.choice(SIZES)

    def _mark(self) -> dict[str, int]:
        """What tells a write from all others."""
        self._version += 1
        return {"file": 1000 + self._user, "version": self._version}

    def _slot(self) -> str:
        return f"s{len(self._done)}"

    def _written(self, slot: str, size: int, off: int = 0) -> None:
        """Write ``off~size`` in pieces as programs do."""
        piece = self._some(4096, 128 << 10, MIB)
        mark = self._mark()
        if size > 40 * piece:
            piece = MIB
        for start in range(off, off + size, piece):
            self._add("write", slot=slot, **mark, off=start, size=min(piece, off + size - start))

    def _looked_at(self, path: str) -> None:
        """Look at a file at once, or a little later."""
        if self._chance(0.3):
            self._add("pause", seconds=self._random.choice(PAUSES))
        if self._chance(0.7):
            self._add("stat", path=path)
        if self._chance(0.6):
            how = self._some("read", "direct", "seek", *(["mmap"] if self._mapping else []))
            self._add("read_all", path=path, how=how)
        if self._chance(0.15):
            self._add("export", path=path)
        if self._chance(0.15):
            self._add("listing", path=self._some("a", "b"))
