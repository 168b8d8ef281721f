"""Header objects of images: their omap, as an OSD hands it out, and what is made of it.

An input: how many keys a page has, a byte of flags; then entries, each a byte for the key and a
chunk, the value. Of a snapshot the key is the one that its record asks for, or a number that
follows.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

from fuzzing.parts import Parts, at_once
from rbdfs.errors import NameTooLong, NotUnderstood
from rbdfs.metadata.image_header import (
    decode_header,
    decode_parent,
    decode_snap,
    read_header,
    read_parent,
)
from rbdfs.metadata.image_meta import read_meta_page
from rbdfs.metadata.migration_record import read_migration
from rbdfs.metadata.object_map import trustworthy
from rbdfs.model.entry import Entry, Key, find_snap, image_entry, snap_entry
from rbdfs.model.file_name import file_name, parse_file_name

if TYPE_CHECKING:
    from rbdfs.model.image_attributes import ImageAttributes

IMAGE_ID = "1019b26b1499"
KEYS = (
    *("order", "size", "features", "flags", "stripe_unit", "stripe_count", "create_timestamp"),
    *("access_timestamp", "modify_timestamp", "data_pool_id", "parent", "metadata_rbdfs.growing"),
    *("migration", "metadata_conf_rbd_cache", "snap_seq", "object_prefix"),
)
_BY_RECORD, _BY_NUMBER = len(KEYS), len(KEYS) + 1
_REPEATS, _FULL_PAGES = 1, 2


class _Osd:
    """Has one object, of which it hands out the omap as librados does."""

    def __init__(self, parts: Parts) -> None:
        self._page_keys = 1 + parts.number()
        flags = parts.number()
        # It may be that of somebody else's making: which begins from the front again, say.
        self._repeats = bool(flags & _REPEATS)
        self.omap: dict[str, bytes] = {}
        while parts:
            self._add(parts.number(), parts)
        if flags & _FULL_PAGES:
            self.omap |= {f"metadata_{number:03}": b"" for number in range(70)}
        # By four readers, of which one goes through all pages.
        self._left = len(self.omap) + 8

    def _add(self, kind: int, parts: Parts) -> None:
        value = parts.chunk()
        if kind < len(KEYS):
            self.omap[KEYS[kind]] = value
        elif kind == _BY_RECORD:
            self.omap[f"snapshot_{int.from_bytes(value[6:14], 'little'):016x}"] = value
        elif kind == _BY_NUMBER:
            self.omap[f"snapshot_{parts.number(8):016x}"] = value
        else:
            self.omap["snapshot_" + parts.text()] = value

    async def read(
        self, oid: str, keys: tuple[str, ...], prefix: str, start_after: str
    ) -> tuple[dict[str, bytes], dict[str, bytes]]:
        """As image_header.ReadOmap."""
        assert oid == f"rbd_header.{IMAGE_ID}"
        self._left -= 1
        assert self._left > 0, "it is asked for more pages than there can be"
        values = {key: self.omap[key] for key in keys if key in self.omap}
        after = "" if self._repeats else start_after
        page = [key for key in sorted(self.omap) if key.startswith(prefix) and key > after]
        return values, {key: self.omap[key] for key in page[: self._page_keys]}


def check(data: bytes) -> None:
    osd = _Osd(Parts(data))
    for read in (read_parent, read_migration, read_meta_page):
        with contextlib.suppress(NotUnderstood):
            at_once(read(osd.read, IMAGE_ID))
    for value in osd.omap.values():
        for decode in (decode_parent, decode_snap):
            with contextlib.suppress(NotUnderstood):
                decode(value)
    with contextlib.suppress(NotUnderstood):
        attributes = at_once(read_header(osd.read, IMAGE_ID))
        snaps = {key: value for key, value in osd.omap.items() if key.startswith("snapshot_")}
        assert attributes == decode_header(IMAGE_ID, osd.omap, snaps)
        _check_attributes(attributes)


def _check_attributes(attributes: ImageAttributes) -> None:
    assert 0 <= attributes.size < 1 << 64
    assert 9 <= attributes.order <= 62
    ids = [snap.snap_id for snap in attributes.snaps]
    assert ids == sorted(set(ids)), "snapshots are in order of their ids"
    trustworthy(attributes)
    with contextlib.suppress(NotUnderstood):
        image = image_entry(Entry(Key(1, ""), "pool"), "image", attributes)
        _check_entry(image)
        for snap in attributes.snaps:
            assert find_snap(attributes, snap.snap_id) is snap
            trustworthy(attributes, snap)
            with contextlib.suppress(NotUnderstood):
                entry = snap_entry(image, snap)
                assert entry.is_snapshot, "a snapshot is no image, which can be written to"
                _check_entry(entry)


def _check_entry(entry: Entry) -> None:
    assert Entry.from_record(json.loads(json.dumps(entry.record()))) == entry
    assert entry.spec.isprintable() or entry.spec.encode()
    assert "\n" not in entry.spec
    if entry.is_snapshot and entry.snap == "":
        return  # Ceph has no such name, and the listing leaves it out.
    # A name, or the id where it has none that is told.
    snap_id = entry.key.snap_id if entry.is_snapshot and entry.snap is None else None
    with contextlib.suppress(NameTooLong):
        name = file_name(entry.image, entry.snap, snap_id=snap_id)
        parsed = parse_file_name(name)
        assert (parsed.image, parsed.snap, parsed.snap_id) == (entry.image, entry.snap, snap_id)
