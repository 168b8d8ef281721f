"""The mark of a file that grows: when it is written, what it says, and when it goes."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from rbdfs.errors import Outgrown
from rbdfs.files.growth import Growth

if TYPE_CHECKING:
    from rbdfs.model.growth_mark import GrowthMark

MIB = 1 << 20
ROOM = 64 * MIB


@dataclass
class Host:
    """An image with its mark, of a host that may die after any step.

    Attributes:
        real: the size that the image has; `size` is what is known of it here.
        fails: what fails after it was done: "resize", "mark"; "all" for a fenced client.
        steps: how image and mark were, after each change: the size, and the mark.
    """

    size: int = 0
    real: int = 0
    mark: GrowthMark | None = None
    fails: set[str] = field(default_factory=set)
    steps: list[tuple[int, GrowthMark | None]] = field(default_factory=list)
    spec: str = "pool/image"

    async def resize(self, size: int, *, shrink: bool = False) -> None:
        if size < self.real and not shrink:
            raise Outgrown("image")
        self.real = size
        self._done("resize")
        self.size = size

    async def refresh(self) -> None:
        self.size = self.real

    def check(self) -> None:
        if "all" in self.fails:
            raise OSError(errno.ESHUTDOWN, "fenced")

    async def set_mark(self, _image: object, mark: GrowthMark | None) -> None:
        self.mark = mark
        self._done("mark")

    def growth(self, length: int | None = None) -> Growth:
        return Growth(self.size, length, lambda: None, self.set_mark)

    def lengths(self, data: int) -> list[int]:
        """How long the file is after a death of the host in each step, with data so far."""
        return [_length(real, mark, data) for real, mark in self.steps]

    def _done(self, what: str) -> None:
        self.steps.append((self.real, self.mark))
        if what in self.fails:
            self.fails.remove(what)
            raise OSError(errno.EIO, what)


def _length(real: int, mark: GrowthMark | None, data: int) -> int:
    """What the next mount makes of it."""
    if mark is None or real not in (mark.size, mark.room):
        return real
    return min(real, max(mark.length, data))


async def written(growth: Growth, host: Host, end: int) -> None:
    async with growth.written_up_to(host, end):  # type: ignore[arg-type]
        pass


@pytest.mark.parametrize("wanted", [0, 3, 5, 9, ROOM, 2 * ROOM, 3 * ROOM])
async def test_truncated(wanted: int) -> None:
    """To what was said of it in the end; before that to what it was, or is to be."""
    host = Host()
    growth = host.growth()
    await written(growth, host, 5)
    await growth.extend(host, ROOM + 5)  # type: ignore[arg-type]
    del host.steps[:]
    await growth.truncate(host, wanted)  # type: ignore[arg-type]
    assert set(host.lengths(min(5, wanted))) <= {ROOM + 5, wanted}
    assert (growth.length, host.real, host.mark) == (wanted, wanted, None)


async def test_trimmed_beside_a_write() -> None:
    """What is not written yet, a death of the host leaves out."""
    host = Host()
    growth = host.growth()
    await written(growth, host, 5)
    async with growth.written_up_to(host, 2 * MIB):  # type: ignore[arg-type]
        del host.steps[:]
        await growth.trim(host)  # type: ignore[arg-type]
        assert host.real == 2 * MIB
        assert set(host.lengths(5)) == {5}
    await growth.trim(host)  # type: ignore[arg-type]
    assert (host.real, host.mark) == (2 * MIB, None)


async def test_a_resize_that_fails_when_it_is_done() -> None:
    """Nobody takes the image for as long as it was before."""
    host = Host(fails={"resize"})
    growth = host.growth()
    with pytest.raises(OSError, match="resize"):
        await written(growth, host, 5)
    # A snapshot would have the room.
    assert not growth.fits(host)  # type: ignore[arg-type]
    await growth.trim(host)  # type: ignore[arg-type]
    assert growth.fits(host)  # type: ignore[arg-type]
    assert (host.real, host.mark) == (0, None)


async def test_a_mark_that_fails_when_it_is_there() -> None:
    host = Host(fails={"mark"})
    growth = host.growth()
    with pytest.raises(OSError, match="mark"):
        await written(growth, host, 5)
    assert host.mark is not None
    await growth.trim(host)  # type: ignore[arg-type]
    assert host.mark is None


async def test_a_mark_that_cannot_be_removed() -> None:
    """The file is as long as it was: whoever asked for it was told that it failed."""
    host = Host()
    growth = host.growth()
    await written(growth, host, 5)
    host.fails = {"mark"}
    with pytest.raises(OSError, match="mark"):
        await growth.truncate(host, ROOM)  # type: ignore[arg-type]
    assert growth.length == 5
    await growth.truncate(host, ROOM)  # type: ignore[arg-type]
    assert (growth.length, host.real, host.mark) == (ROOM, ROOM, None)


async def test_one_that_another_client_makes_larger_still() -> None:
    """It is not cut while it grows; what it gets in the end is the length of the file."""
    host = Host()
    growth = host.growth()
    host.real = 2 * ROOM
    await written(growth, host, 5)
    assert (growth.length, host.size, host.real) == (5, 2 * ROOM, 2 * ROOM)
    await growth.trim(host)  # type: ignore[arg-type]
    assert (host.real, host.mark) == (5, None)


async def test_what_others_may_have_by_now() -> None:
    """Neither its size nor its mark is touched."""
    host = Host()
    growth = host.growth()
    host.fails = {"all"}
    changes = (
        written(growth, host, 5),
        growth.trim(host),  # type: ignore[arg-type]
        growth.truncate(host, 3),  # type: ignore[arg-type]
    )
    for change in changes:
        with pytest.raises(OSError, match="fenced"):
            await change
    assert host.steps == []
