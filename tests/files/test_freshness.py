"""What close(2) is told of a file that was read, while a look opens its image anew."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from rbdfs.errors import ImageGone
from rbdfs.files.freshness import Freshness
from rbdfs.metadata.lineage import Lineage
from rbdfs.model.entry import Entry, Key

CLONE, PARENT = Key(1, "", "clone"), Key(1, "", "parent", 7)
WITH_PARENT = Lineage((CLONE, PARENT), False, False, False, copied=True)
FLATTENED = Lineage((CLONE,), False, False, False, copied=True)


class Stub:
    """A SimpleNamespace that can be a key."""

    def __init__(self, **attributes: object) -> None:
        self.__dict__.update(attributes)


async def test_zeros_are_told_of_an_image_that_is_opened_anew_meanwhile() -> None:
    """What it was cloned from is gone, and its lineage does not tell of that any more."""
    entry = Entry(CLONE, pool="rbd", image="clone")
    gate = SimpleNamespace(is_frozen=False)
    image = SimpleNamespace(lock_held=False)
    shared: Any = Stub(
        entry=entry, error=None, image=image, gate=gate, lineage=WITH_PARENT, usable=lambda: image
    )

    async def size(_entry: Entry, *, newer: bool) -> int:
        assert newer
        shared.lineage = FLATTENED
        return 4096

    async def of(_entry: Entry, *, newer: bool) -> Lineage:
        assert newer
        return FLATTENED

    async def is_there(lineage: Lineage) -> bool:
        assert lineage == WITH_PARENT
        return False

    unused: Any = None
    catalog: Any = SimpleNamespace(size=size)
    lineages: Any = SimpleNamespace(of=of, is_there=is_there)
    freshness = Freshness(catalog, lineages, unused, unused, unused)
    handle: Any = SimpleNamespace(doubt=None, shared=shared)
    with pytest.raises(ImageGone, match="may be zeros"):
        await freshness.confirm(handle)
