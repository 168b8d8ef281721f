"""Extents and drawings of files, without a mount: what lseek(2) tells is what any file has."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

import pytest

from rbdfs.commands.drawing import Canvas
from rbdfs.commands.extents import Extent, extents
from rbdfs.commands.output import exact_size, short_size
from rbdfs.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20


@contextlib.contextmanager
def sparse(path: Path, size: int, *data: tuple[int, int]) -> Iterator[int]:
    """A file with data at these extents."""
    with path.open("wb+", buffering=0) as file:
        file.truncate(size)
        for offset, length in data:
            os.pwrite(file.fileno(), b"x" * length, offset)
        os.fsync(file.fileno())
        yield file.fileno()


def test_data_and_holes(tmp_path: Path) -> None:
    with sparse(tmp_path / "file", 8 * MIB, (MIB, MIB), (7 * MIB, MIB)) as descriptor:
        found = list(extents(descriptor, 8 * MIB))
    assert found == [
        Extent(0, MIB, data=False),
        Extent(MIB, MIB, data=True),
        Extent(2 * MIB, 5 * MIB, data=False),
        Extent(7 * MIB, MIB, data=True),
    ]


@pytest.mark.parametrize("size", [0, 1, MIB])
def test_a_file_without_data(tmp_path: Path, size: int) -> None:
    with sparse(tmp_path / "file", size) as descriptor:
        assert list(extents(descriptor, size)) == ([Extent(0, size, data=False)] if size else [])


def test_it_ends_where_the_file_has_become_shorter(tmp_path: Path) -> None:
    with sparse(tmp_path / "file", MIB, (0, MIB)) as descriptor:
        os.ftruncate(descriptor, 0)
        assert list(extents(descriptor, MIB)) == [Extent(0, MIB, data=False)]


def test_answers_that_make_no_sense_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is written to may say data, and then a hole, of the same place."""
    for answer in (0, -1):
        monkeypatch.setattr(os, "lseek", lambda _fd, _off, _how, answer=answer: answer)
        with pytest.raises(UserError, match="changes"):
            list(extents(0, MIB))

    def fails(*_arguments: int) -> int:
        raise OSError(errno.EIO, "error")

    monkeypatch.setattr(os, "lseek", fails)
    with pytest.raises(OSError, match="error"):
        list(extents(0, MIB))


def test_neighbours_of_one_kind_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    # The hole that was said to be at 4096 is written to before it is asked for.
    answers = {(0, os.SEEK_DATA): 0, (0, os.SEEK_HOLE): 4096}
    answers |= {(4096, os.SEEK_DATA): 4096, (4096, os.SEEK_HOLE): 8192}
    monkeypatch.setattr(os, "lseek", lambda _fd, off, how: answers[off, how])
    assert list(extents(0, 8192)) == [Extent(0, 8192, data=True)]


@pytest.mark.parametrize("size", [0, 1, 4096, 4097, MIB, 3 * MIB + 5, 100 << 40, (1 << 63) - 1])
@pytest.mark.parametrize("columns", [0, 20, 80, 200])
def test_a_drawing_is_small_and_shows_all(size: int, columns: int) -> None:
    canvas = Canvas.of(size, columns)
    for data in (False, True):
        *lines, legend = canvas.lines([Extent(0, size, data)] if size else [])
        assert len(lines) <= 16
        assert all(len(line) <= max(columns, 20) for line in lines)
        cells = "".join(line[12:] for line in lines)
        assert set(cells) <= {canvas.shades[-1 if data else 0]}
        assert (len(cells) - 1) * canvas.cell_bytes < size <= len(cells) * canvas.cell_bytes or (
            not size and not cells
        )
        assert short_size(canvas.cell_bytes) in legend


def test_a_little_data_is_seen_and_little_missing_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    canvas = Canvas(4 * MIB, MIB, 4, ".:+*#")
    drawn = canvas.lines(
        [
            Extent(0, 1, data=True),
            Extent(1, MIB - 1, data=False),
            Extent(MIB, MIB - 1, data=True),
            Extent(2 * MIB + MIB // 2, MIB, data=True),
        ]
    )
    assert next(drawn)[12:] == ":*++"


def test_sizes() -> None:
    told = {0: "0 B", 1023: "1023 B", 1024: "1 KiB", 1536: "1.5 KiB", MIB - 1: "1 MiB"}
    told |= {10 << 30: "10 GiB", 1 << 50: "1 PiB", (1 << 63) - 1: "8 EiB", 1 << 74: "16384 EiB"}
    assert {size: short_size(size) for size in told} == told
    assert exact_size(1000) == "1000 B"
    assert exact_size(1536) == "1.5 KiB (1536 bytes)"
