"""The native binding against Debian's: the same images, the same answers."""

from __future__ import annotations

import errno
import os
import select
from typing import TYPE_CHECKING, Any

import pytest
import rbd

from rbdfs.datapath import native
from tests.datapath.conftest import SIZE, name_of
from tests.support.conditions import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rbdfs.datapath.native import Image, Ioctx
    from tests.support.ceph import Ceph

TIMEOUT_S = 20.0


class Result:
    """The callback of an aio request, and what it was called with."""

    def __init__(self, client: native.Client) -> None:
        self._client = client
        self._values: tuple[int, bytes | None] | None = None

    def __call__(self, completion: native.Completion, data: bytes | None = None) -> None:
        self._values = completion.get_return_value(), data

    def wait(self) -> tuple[int, bytes | None]:
        while self._values is None:
            assert select.select([self._client], [], [], TIMEOUT_S)[0]
            self._client.run_callbacks()
        return self._values


@pytest.fixture
def debian(ceph: Ceph, pool: str, image: Image) -> Iterator[rbd.Image]:
    """The same image, opened by Debian's module."""
    with (
        ceph.connect() as cluster,
        cluster.open_ioctx(pool) as ioctx,
        rbd.Image(ioctx, name_of(image), read_only=True) as other,
    ):
        yield other


def test_data(image: Image) -> None:
    data = os.urandom(100_000)
    written, read, flushed, zeroed, again = (Result(image.ioctx.client) for _ in range(5))
    image.aio_write(data, 4000, written)
    assert written.wait() == (0, None)
    image.aio_flush(flushed)
    assert flushed.wait() == (0, None)
    image.aio_read(4000, 100_000, read)
    assert read.wait() == (100_000, data)
    image.aio_write_zeroes(5000, 10, zeroed)
    assert zeroed.wait() == (0, None)
    image.aio_read(4999, 12, again)
    assert again.wait() == (12, data[999:1000] + bytes(10) + data[1010:1011])


def test_errors_of_requests(image: Image) -> None:
    read, write = Result(image.ioctx.client), Result(image.ioctx.client)
    image.aio_read(SIZE + 1, 512, read)
    assert read.wait() == (-errno.EINVAL, None)
    image.aio_write(b"data", SIZE + 1, write)
    assert write.wait() == (-errno.EINVAL, None)
    with pytest.raises(TypeError):
        image.aio_write("text", 0, write)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_callback_that_raises_harms_nobody(image: Image) -> None:
    def raises(*_: object) -> None:
        raise RuntimeError("from a callback")

    image.aio_flush(raises)
    flushed = Result(image.ioctx.client)
    image.aio_flush(flushed)
    assert flushed.wait() == (0, None)


def test_metadata(image: Image, debian: rbd.Image) -> None:
    assert image.size() == debian.size() == SIZE
    assert image.features() == debian.features()
    assert image.flags() == debian.flags()
    assert [*image.watchers_list()] == [*debian.watchers_list()]


def test_snapshots(image: Image, ceph: Ceph, pool: str, ioctx: Ioctx, debian: rbd.Image) -> None:
    names = [f"s{i}" for i in range(20)]
    debian.close()
    with (
        ceph.connect() as cluster,
        cluster.open_ioctx(pool) as other_ioctx,
        rbd.Image(other_ioctx, name_of(image)) as other,
    ):
        for name in names:
            other.create_snap(name)
        first = min(int(snap["id"]) for snap in other.list_snaps())
    written = Result(image.ioctx.client)
    image.aio_write(b"after", 0, written)
    written.wait()
    for which in ("s0", first, b"s0"):
        with native.Image(ioctx, name_of(image), which) as snapshot:
            assert snapshot.read_only
            read, write = Result(image.ioctx.client), Result(image.ioctx.client)
            snapshot.aio_read(0, 5, read)
            assert read.wait() == (5, bytes(5))
            snapshot.aio_write(b"data", 0, write)
            assert write.wait()[0] == -errno.EROFS
    ceph.rbd("snap", "purge", "--no-progress", f"{pool}/{name_of(image)}")


def test_extents(image: Image) -> None:
    def extents(whole_object: bool) -> list[int]:
        return memoryview(image.allocated_extents(whole_object)).cast("Q").tolist()

    assert extents(True) == []
    for offset in (0, 4096, 4 << 20):
        written = Result(image.ioctx.client)
        image.aio_write(bytes(range(256)) * 16, offset, written)
        written.wait()
    assert extents(False) == [0, 8192, 1, 4 << 20, 4096, 1]
    # Objects are reported up to their last byte at least.
    whole = extents(True)
    assert whole[0] == 0
    assert sum(whole[1::3]) >= 8192 + 4096


def test_resize(image: Image, ceph: Ceph, pool: str) -> None:
    image.resize(SIZE // 2)
    assert image.size() == SIZE // 2
    ceph.rbd("resize", f"--size={SIZE}B", "--no-progress", f"{pool}/{name_of(image)}")
    eventually(lambda: image.size() == SIZE, what="the size that another client gave")
    with pytest.raises(OSError, match="resize"):
        image.resize(SIZE // 2, allow_shrink=False)


def test_exclusive_lock(ceph: Ceph, pool: str, ioctx: Ioctx, image_name: str) -> None:
    ceph.rbd("create", "--size=1M", "--image-feature=exclusive-lock", f"{pool}/{image_name}")
    with native.Image(ioctx, image_name) as image:
        assert not image.is_exclusive_lock_owner()
        image.lock_acquire(native.LOCK_MODE_EXCLUSIVE)
        assert image.is_exclusive_lock_owner()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"name": "missing"}, FileNotFoundError),
        ({"image_id": "missing"}, FileNotFoundError),
        ({"name": "a\0b"}, OSError),
        ({}, ValueError),
        ({"name": "a", "image_id": "b"}, ValueError),
    ],
)
def test_images_that_do_not_open(
    ioctx: Ioctx, arguments: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        native.Image(ioctx, **arguments)


def test_snapshot_that_is_missing(ioctx: Ioctx, image: Image) -> None:
    for missing in ("missing", 12345):
        with pytest.raises(FileNotFoundError, match=f"@{missing}"):
            native.Image(ioctx, name_of(image), missing)


def test_image_by_its_id(ioctx: Ioctx, image: Image, debian: rbd.Image) -> None:
    with native.Image(ioctx, image_id=debian.id(), read_only=True) as other:
        assert other.read_only
        assert other.size() == SIZE


def test_names_that_are_not_utf8(ceph: Ceph, pool: str, ioctx: Ioctx) -> None:
    name = b"caf\xe9/@\n"
    with ceph.connect() as cluster, cluster.open_ioctx(pool) as other:
        rbd.RBD().create(other, name, 1 << 20)
        for text in (name, os.fsdecode(name)):
            with native.Image(ioctx, text) as image:
                assert image.size() == 1 << 20
        rbd.RBD().remove(other, name)


def test_closing_order(new_image: Callable[..., Image], ioctx: Ioctx) -> None:
    image = new_image()
    with pytest.raises(RuntimeError, match="images"):
        ioctx.close()
    with pytest.raises(RuntimeError, match="ioctx"):
        ioctx.client.close()
    image.close()
    image.close()
    with pytest.raises(OSError, match="closed") as caught:
        image.size()
    assert caught.value.errno == errno.EBADF


def test_close_waits_for_requests(image: Image, ceph: Ceph) -> None:
    written = Result(image.ioctx.client)
    with ceph.stalled("osd.0"):
        image.aio_write(b"data", 0, written)
        with pytest.raises(TimeoutError, match="close"):
            image.close(0.1)
    assert written.wait() == (0, None)
    image.close()


def test_client_configuration(ceph: Ceph) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        native.Client("admin", "/nowhere")
    with pytest.raises(OSError, match="no_such_option") as caught:
        native.Client("admin", ceph.conf, [("no_such_option", "secret")])
    assert "secret" not in str(caught.value)
    with native.Client("nobody", ceph.conf) as client:
        with pytest.raises(OSError, match="not connected"):
            client.open_ioctx("rbd")
        with pytest.raises(OSError, match="connect") as caught:
            client.connect()
        assert caught.value.errno in (errno.EACCES, errno.ENOENT, errno.EIO)
    # The last setting counts, after the file.
    unreachable = [("mon_host", "127.0.0.1:1"), ("client_mount_timeout", "1")]
    with native.Client("admin", ceph.conf, unreachable) as client, pytest.raises(TimeoutError):
        client.connect()


def test_missing_pool(ioctx: Ioctx) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        ioctx.client.open_ioctx("nowhere")


def test_unclosed_image_is_reported(image: Image, ceph: Ceph, pool: str) -> None:
    """A client of its own: it stays connected, and so does no harm to the others."""
    client = native.Client("admin", ceph.conf)
    client.connect()
    leaked = native.Image(client.open_ioctx(pool), name_of(image), read_only=True)
    with pytest.warns(ResourceWarning, match="not closed"):
        del leaked
