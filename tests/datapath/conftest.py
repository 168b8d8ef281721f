"""Fixtures: a client of the native data path, and images of it."""

from __future__ import annotations

import itertools
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

# The plain Python half of the package is tested without the extension too.
collect_ignore = []
try:
    from rbdfs.datapath import native
except ImportError:
    collect_ignore = [
        f"test_{name}.py" for name in ("fuzz", "mount", "mux", "mux_replies", "native")
    ]

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rbdfs.datapath.native import Image, Ioctx
    from tests.support.ceph import Ceph

SIZE = 8 << 20


def pytest_report_header() -> list[str]:
    return [f"rbdfs.datapath.native is not built: without {collect_ignore}"] * bool(collect_ignore)


@pytest.fixture(scope="module")
def ioctx(ceph: Ceph, pool: str) -> Iterator[Ioctx]:
    settings = [*native.UNTHROTTLED, ("rbd_cache", "false")]
    with native.Client("admin", ceph.conf, settings) as client:
        client.connect()
        with client.open_ioctx(pool) as ioctx:
            yield ioctx


@pytest.fixture
def new_image(ceph: Ceph, pool: str, ioctx: Ioctx) -> Iterator[Callable[..., Image]]:
    """A function that makes an image of `size` bytes with plain features, and opens it."""
    numbers = itertools.count()
    with ExitStack() as stack:

        def make(size: int = SIZE) -> Image:
            name = f"dp-{next(numbers)}"
            ceph.rbd("create", f"--size={size}B", "--image-feature=layering", f"{pool}/{name}")
            stack.callback(ceph.rbd, "rm", "--no-progress", f"{pool}/{name}")
            image: Image = native.Image(ioctx, name)
            stack.callback(image.close, 20.0)
            return image

        yield make


@pytest.fixture
def image(new_image: Callable[..., Image]) -> Image:
    return new_image()
