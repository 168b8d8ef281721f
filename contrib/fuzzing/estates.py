"""Estates, as keepers of every version hand them over, and with what versions to come may add.

An input: a byte for the version; then changes of its record, each a byte for its kind, two for its
place, and a chunk. A field that is added is ignored, and a text that is another one comes through.
"""

from __future__ import annotations

import copy
import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fuzzing.parts import Parts
from rbdfs.errors import UserError
from rbdfs.files.keeping import OpenFile
from rbdfs.keeper.estate import Estate, Kind
from rbdfs.keeper.messages import VERSION
from rbdfs.model.entry import Entry
from rbdfs.model.record import ignore
from rbdfs.moves.move import Move

if TYPE_CHECKING:
    from collections.abc import Iterator

_RECORDS = Path(__file__).parents[2] / "tests" / "keeper" / "records"
# What is looked for by name, or handed on whole: nothing is added to it.
_NAMED = ("records", "request")
_TEXTS = ("image", "pool", "namespace", "snap", "mountpoint", "log_file", "directory")


def check(data: bytes) -> None:
    parts = Parts(data)
    version = 1 + parts.number() % VERSION
    record = copy.deepcopy(_record(version))
    renamed = False
    while parts:
        kind, place, text = parts.number(), parts.number(2), parts.text()
        if kind % 2:
            _add(record, place, text)
        else:
            renamed = True
            _rename(record, place, text)
    try:
        _check_record(record, None if renamed else _handed_over(_record(version)))
    except UserError:
        # A command line of version 1 that makes no sense any more.
        assert renamed
        assert version == 1
    finally:
        ignore.cache_clear()


def _check_record(record: dict[str, Any], plain: Estate | None) -> None:
    """*plain* is without what was added, if nothing else was changed."""
    estate = _handed_over(record)
    read = _records(estate)
    if plain is not None:
        assert estate.options == plain.options
        assert read == _records(plain)
    # What this version does not know of a record, it leaves to one that may.
    again = _handed_over(estate.record())
    assert again == estate
    assert _records(again) == read


@functools.cache
def _record(version: int) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((_RECORDS / f"version-{version}.json").read_text())
    return record


def _handed_over(record: dict[str, Any]) -> Estate:
    return Estate.from_record(json.loads(json.dumps(record)))


def _records(estate: Estate) -> list[Any]:
    """Return all records of *estate* as a server reads them."""
    found: list[Any] = [
        OpenFile.from_record(fh, left) for fh, left in estate.of_kind(Kind.FILE).items()
    ]
    found += [Move.from_record(number, left) for number, left in estate.of_kind(Kind.MOVE).items()]
    found += [Entry.from_record(left["entry"]) for left in estate.of_kind(Kind.DIRECTORY).values()]
    found += [Entry.from_record(left) for left in estate.of_kind(Kind.ROOT).values()]
    return found


def _objects(value: Any, name: str = "") -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if name not in _NAMED:
            yield value
        for key, each in value.items():
            yield from _objects(each, key)
    elif isinstance(value, list):
        for each in value:
            yield from _objects(each, name)


def _add(record: dict[str, Any], place: int, text: str) -> None:
    """Add a field that nobody knows to one of the objects in *record*."""
    objects = list(_objects(record))
    objects[place % len(objects)].setdefault(f"{text}?", {text: [place, None]})


def _rename(record: dict[str, Any], place: int, text: str) -> None:
    """Have one of the texts of *record* that somebody has chosen be *text*."""
    objects = list(_objects(record))
    texts: list[tuple[Any, Any]] = [
        (holder, key) for holder in objects for key in _TEXTS if isinstance(holder.get(key), str)
    ]
    texts += [(each["target"], index) for each in objects if "target" in each for index in range(3)]
    texts.append((record["addresses"], 0))
    arguments = record.get("arguments", [])
    texts += [(arguments, index) for index in range(len(arguments))]
    holder, key = texts[place % len(texts)]
    if holder is arguments:
        # --help and --version print, and end the process: no mount came of them.
        text = text.replace("h", "").replace("version", "")
    holder[key] = text
