"""Opening on a client of the data path: what it asks of librbd besides."""

from __future__ import annotations

import contextlib
import errno
import json
import threading
from typing import TYPE_CHECKING, Any

import pytest

from rbdfs.ceph.aio import AioBridge
from rbdfs.ceph.native_opener import NativeOpener
from rbdfs.config.ceph_settings import CephSettings
from rbdfs.model.entry import Entry, Key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from rbdfs.datapath import native
    from tests.support.ceph import Ceph
else:
    native = pytest.importorskip("rbdfs.datapath.native")

pytestmark = pytest.mark.usefixtures("native")


def entry_of(ceph: Ceph, pool: str, image: str) -> Entry:
    pool_id = json.loads(ceph.ceph("osd", "pool", "get", pool, "all", "--format=json"))["pool_id"]
    image_id = json.loads(ceph.rbd("info", "--format=json", f"{pool}/{image}"))["id"]
    return Entry(Key(pool_id, "", image_id), pool=pool, image=image)


@contextlib.asynccontextmanager
async def opener_of(ceph: Ceph) -> AsyncIterator[NativeOpener]:
    settings = CephSettings(conf=ceph.conf)
    async with NativeOpener.connect(settings, AioBridge(), ()) as opener:
        yield opener


async def test_the_size_is_asked_in_a_thread(
    ceph: Ceph, pool: str, image_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """librbd may have to read the header for it; where that fails the image is closed."""
    asked: list[threading.Thread] = []
    closed: list[Any] = []

    class Image(native.Image):
        def size(self) -> int:
            asked.append(threading.current_thread())
            if len(asked) > 1:
                raise OSError(errno.EIO, "no header")
            return super().size()

        def close(self, *arguments: Any) -> None:
            super().close(*arguments)
            closed.append(self)

    monkeypatch.setattr(native, "Image", Image)
    ceph.rbd("create", "--size=1M", f"{pool}/{image_name}")
    entry = entry_of(ceph, pool, image_name)
    async with opener_of(ceph) as opener:
        opened = await opener.open(entry, read_only=True)
        await opened.close()
        with pytest.raises(OSError, match="no header"):
            await opener.open(entry, read_only=True)
    assert len(asked) == len(closed) == 2
    assert threading.main_thread() not in asked
