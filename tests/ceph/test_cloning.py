"""Clones of format 1, for which a snapshot is protected, beside others who do the same."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
import rbd

from rbdfs.ceph.directory_changes import clone_snapshot
from rbdfs.errors import Exists
from rbdfs.model.entry import Entry, Key

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def golden(ioctx: Any, image_name: str) -> Entry:
    """Snapshot `v1` of an image, not protected."""
    rbd.RBD().create(ioctx, image_name, 4096, old_format=False)
    with rbd.Image(ioctx, image_name) as image:
        image.create_snap("v1")
        key = Key(ioctx.get_pool_id(), "", image.id(), image.snap_get_id("v1"))
    return Entry(key, "pool", image=image_name, snap="v1")


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """What others do once librbd has refused a clone."""
    changes: list[Callable[[], None]] = []

    class Shared(rbd.RBD):  # type: ignore[misc]
        def clone(self, *args: Any, **kwargs: Any) -> None:
            try:
                super().clone(*args, **kwargs)
            except rbd.InvalidArgument:
                while changes:
                    changes.pop(0)()
                raise

    monkeypatch.setattr(rbd, "RBD", Shared)
    return changes


def protect(ioctx: Any, snap: Entry) -> None:
    with rbd.Image(ioctx, snap.image) as image:
        image.protect_snap(snap.snap)


def is_protected(ioctx: Any, snap: Entry) -> bool:
    with rbd.Image(ioctx, snap.image, read_only=True) as image:
        return bool(image.is_protected_snap(snap.snap))


def make(ioctx: Any, snap: Entry) -> str:
    """Clone *snap*; the clone's name."""
    name = f"{snap.image}-vm"
    clone_snapshot(ioctx, snap, ioctx, name, None, "cloning")
    return name


def test_others_protect_it_meanwhile(
    ioctx: Any, golden: Entry, meanwhile: list[Callable[[], None]]
) -> None:
    meanwhile.append(lambda: protect(ioctx, golden))
    with rbd.Image(ioctx, make(ioctx, golden)) as clone:
        assert clone.parent_info()[1:] == (golden.image, golden.snap)
    assert not meanwhile
    assert is_protected(ioctx, golden)


def test_a_name_that_others_take_meanwhile(
    ioctx: Any, golden: Entry, meanwhile: list[Callable[[], None]]
) -> None:
    """What has no clone in the end is not protected for one."""
    taken = f"{golden.image}-vm"
    meanwhile.append(lambda: rbd.RBD().create(ioctx, taken, 4096, old_format=False))
    with pytest.raises(Exists):
        make(ioctx, golden)
    assert not is_protected(ioctx, golden)


def test_others_who_had_protected_it_keep_that(
    ioctx: Any, golden: Entry, meanwhile: list[Callable[[], None]]
) -> None:
    taken = f"{golden.image}-vm"
    meanwhile.append(lambda: protect(ioctx, golden))
    meanwhile.append(lambda: rbd.RBD().create(ioctx, taken, 4096, old_format=False))
    with pytest.raises(Exists):
        make(ioctx, golden)
    assert is_protected(ioctx, golden)


def test_others_make_a_clone_of_what_was_protected(
    ioctx: Any,
    golden: Entry,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """They clone it under the same name, being quicker: it stays protected."""
    failed: list[Any] = []  # unprotected

    class Slow(rbd.RBD):  # type: ignore[misc]
        def clone(self, *args: Any, **kwargs: Any) -> None:
            if failed:
                super().clone(*args, **kwargs)
            try:
                super().clone(*args, **kwargs)
            except rbd.Error:
                failed.append(args)
                raise

    monkeypatch.setattr(rbd, "RBD", Slow)
    with caplog.at_level(logging.WARNING), pytest.raises(Exists):
        make(ioctx, golden)
    assert is_protected(ioctx, golden)
    assert "stays protected" in caplog.text
