"""Whether a clone is noted where its snapshot is kept from being removed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import rbd

from rbdfs.metadata.clone_links import is_noted
from rbdfs.model.entry import Entry, Key
from tests.support.crashes import nearly_clone

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.ceph import Ceph


@pytest.fixture(scope="module")
def other(ceph: Ceph) -> Iterator[Any]:
    """Another pool, with a namespace."""
    with (
        ceph.temporary_pool() as name,
        ceph.connect() as cluster,
        cluster.open_ioctx(name) as ioctx,
    ):
        rbd.RBD().namespace_create(ioctx, "tenant")
        yield ioctx


@pytest.fixture
def golden(ioctx: Any, image_name: str) -> Entry:
    """Snapshot `v1` of an image, which is protected."""
    rbd.RBD().create(ioctx, image_name, 4096, old_format=False)
    with rbd.Image(ioctx, image_name) as image:
        image.create_snap("v1")
        image.protect_snap("v1")
        key = Key(ioctx.get_pool_id(), "", image.id(), image.snap_get_id("v1"))
    return Entry(key, "pool", image=image_name, snap="v1")


def key_of(ioctx: Any, name: str) -> Key:
    with rbd.Image(ioctx, name, read_only=True) as image:
        return Key(ioctx.get_pool_id(), ioctx.get_namespace(), image.id())


@pytest.mark.parametrize(
    ("clone_format", "where", "namespace"),
    [("1", "pool", ""), ("1", "other", ""), ("2", "pool", ""), ("2", "other", "tenant")],
)
def test_clones(
    ceph: Ceph,
    ioctx: Any,
    other: Any,
    golden: Entry,
    clone_format: str,
    where: str,
    namespace: str,
) -> None:
    """In the pool of their snapshot, and in another one."""
    target, name = {"pool": ioctx, "other": other}[where], f"{golden.image}-vm"
    source = f"{ioctx.get_pool_name()}/{golden.image}@{golden.snap}"
    spec = "/".join(filter(None, (target.get_pool_name(), namespace, name)))
    ceph.rbd("clone", "--rbd-default-clone-format", clone_format, source, spec)
    target.set_namespace(namespace)
    try:
        made = key_of(target, name)
        assert made.namespace == namespace
        assert is_noted(ioctx, golden.key, target, made)
        assert not is_noted(ioctx, golden.key, target, made._replace(image_id="another"))
        assert not is_noted(ioctx, golden.key._replace(snap_id=999), target, made)
    finally:
        target.set_namespace("")


def test_a_clone_that_its_snapshot_does_not_know(ioctx: Any, golden: Entry) -> None:
    name = f"{golden.image}-vm"
    nearly_clone(ioctx, golden, ioctx, name)
    with rbd.Image(ioctx, name) as image:
        assert image.parent_info()[1:] == (golden.image, golden.snap)
    assert not is_noted(ioctx, golden.key, ioctx, key_of(ioctx, name))
