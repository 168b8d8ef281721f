"""Fixtures: images of the native data path, on a cluster and on a librbd that the test commands."""

from __future__ import annotations

import itertools
import shutil
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from rbdfs.config.ceph_settings import UNTHROTTLED

# The plain Python half of the package is tested without the extension too.
collect_ignore = []

try:
    from rbdfs.datapath import native
except ImportError:
    collect_ignore = [
        f"test_{name}.py"
        for name in (
            *(
                "errnos",
                "fuzz",
                "interrupts",
                "meters",
                "mount",
                "mux",
                "mux_replies",
                "native",
                "native_path",
            ),
            *("reader", "requests"),
        )
    ]

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rbdfs.datapath.native import Image, Ioctx
    from tests.support.ceph import Ceph
    from tests.support.fake_librbd import FakeLibrbd

SIZE = 8 << 20


def name_of(image: Image) -> str:
    """The name of an image that new_image() has made."""
    return image.spec.rpartition("/")[2]


def pytest_report_header() -> list[str]:
    return [f"rbdfs.datapath.native is not built: without {collect_ignore}"] * bool(collect_ignore)


@pytest.fixture(scope="module")
def ioctx(ceph: Ceph, pool: str) -> Iterator[Ioctx]:
    settings = [*UNTHROTTLED, ("rbd_cache", "false")]
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


@pytest.fixture(scope="session")
def _fake_librbd(tmp_path_factory: pytest.TempPathFactory) -> FakeLibrbd:
    from tests.support.fake_librbd import FakeLibrbd

    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed: the librbd of the test cannot be built")
    return FakeLibrbd(tmp_path_factory.mktemp("fake_librbd"))


@pytest.fixture
def librbd(_fake_librbd: FakeLibrbd) -> FakeLibrbd:
    """A librbd in memory, as if it had just begun."""
    _fake_librbd.reset()
    return _fake_librbd
