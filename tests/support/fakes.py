"""Stand-ins for librbd in unit tests; test_image.py holds them to what librbd itself does."""

from __future__ import annotations

import contextlib
import errno
import queue
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import rbd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self

    OnComplete = Callable[..., None]


@dataclass(frozen=True)
class FakeCompletion:
    """A completion that is complete."""

    return_value: int

    def get_return_value(self) -> int:
        return self.return_value


@dataclass
class FakeContent:
    """What an image holds, for everybody who has it open.

    Attributes:
        data: the content of the image itself.
        snaps: the content of its snapshots, by id.
        features: as librbd's.
        meta: image-meta.
        opened: by whom it is open now.
        lock_owner: who keeps the exclusive lock.
    """

    data: bytearray
    snaps: dict[int, bytes] = field(default_factory=dict)
    features: int = rbd.RBD_FEATURE_LAYERING | rbd.RBD_FEATURE_EXCLUSIVE_LOCK
    meta: dict[str, str] = field(default_factory=dict)
    opened: list[FakeImage] = field(default_factory=list)
    lock_owner: FakeImage | None = None


class FakeImage:
    """An open image that keeps its data in memory, with the methods of `rbd.Image`.

    Requests are carried out and completed in their order, on a thread of the image's own: the
    buffer of a write is read then, not before. The thread ends when the image is closed, or with
    the context.

    Attributes:
        errors: errno by kind of request (read, write, write_zeroes, flush, resize, metadata,
            close) with which it ends.
        missing: how many bytes of each read are left out without an error.
        submitted: every request in its order, as ``read 0~512``.
    """

    def __init__(
        self,
        content: FakeContent,
        *,
        read_only: bool = False,
        snap_id: int | None = None,
        client_id: int = 4100,
    ) -> None:
        self.errors: dict[str, int] = {}
        self.missing = 0
        self.submitted: list[str] = []
        self._content = content
        self._data = content.data if snap_id is None else bytearray(content.snaps[snap_id])
        self._read_only = read_only or snap_id is not None
        self._client_id = client_id
        self._closed = False
        self._requests: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._released = threading.Event()
        self._released.set()
        self._thread = threading.Thread(target=self._serve, name="fake librbd", daemon=True)
        self._thread.start()
        content.opened.append(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._requests.put(None)
        self._thread.join()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Leave requests unanswered for the time of the block."""
        self._released.clear()
        try:
            yield
        finally:
            self._released.set()

    def size(self) -> int:
        self._require_open()
        return len(self._data)

    def features(self) -> int:
        self._require_open()
        return self._content.features

    def flags(self) -> int:
        self._require_open()
        return 0

    def resize(self, size: int, allow_shrink: bool = True) -> None:
        self._require_open()
        _require_unsigned(size)
        if size < len(self._data) and not allow_shrink:
            raise rbd.InvalidArgument("error resizing image", errno=errno.EINVAL)
        if self._read_only:
            raise rbd.ReadOnlyImage("error resizing image", errno=errno.EROFS)
        if "resize" in self.errors:
            raise rbd.OSError("error resizing image", errno=self.errors["resize"])
        grown = size - len(self._data)
        if grown >= 0:
            self._data.extend(bytes(grown))
        else:
            del self._data[size:]

    def metadata_set(self, key: str, value: str) -> None:
        self._change_meta()
        self._content.meta[key] = value

    def metadata_remove(self, key: str) -> None:
        self._change_meta()
        del self._content.meta[key]

    def _change_meta(self) -> None:
        self._require_open()
        if self._read_only:
            raise rbd.ReadOnlyImage("error changing metadata", errno=errno.EROFS)
        if "metadata" in self.errors:
            raise rbd.OSError("error changing metadata", errno=self.errors["metadata"])

    def lock_acquire(self, lock_mode: int) -> None:
        self._require_open()
        if self._read_only or not self._content.features & rbd.RBD_FEATURE_EXCLUSIVE_LOCK:
            raise rbd.InvalidArgument("error acquiring lock on image", errno=errno.EINVAL)
        if self._content.lock_owner not in (None, self):
            raise rbd.ReadOnlyImage("error acquiring lock on image", errno=errno.EROFS)
        self._content.lock_owner = self

    def is_exclusive_lock_owner(self) -> bool:
        self._require_open()
        return self._content.lock_owner is self

    def list_lockers(self) -> list[Any]:
        self._require_open()
        return []

    def config_list(self) -> list[dict[str, Any]]:
        self._require_open()
        return [{"name": "rbd_cache", "value": "false"}]

    def watchers_list(self) -> list[dict[str, Any]]:
        self._require_open()
        return [
            {"id": image._client_id, "addr": f"127.0.0.1:0/{image._client_id}", "cookie": cookie}
            for cookie, image in enumerate(self._content.opened)
            if not image._read_only
        ]

    def aio_read(self, offset: int, length: int, oncomplete: OnComplete) -> object:
        self._require_open()
        _require_unsigned(offset, length)

        def execute() -> tuple[int, bytes | None]:
            if length and offset >= len(self._data):
                return -errno.EINVAL, None
            data = bytes(self._data[offset : offset + length])
            count = max(0, len(data) - self.missing)
            # The binding cuts its buffer to what was read, unless that was nothing.
            return count, data[:count] if count else b"\xee" * length

        return self._submit("read", f"read {offset}~{length}", execute, oncomplete)

    def aio_write(self, data: bytes, offset: int, oncomplete: OnComplete) -> object:
        self._require_open()
        if not isinstance(data, bytes | bytearray):
            raise TypeError(f"expected bytes, {type(data).__name__} found")
        _require_unsigned(offset)

        def execute() -> tuple[int]:
            if data and offset >= len(self._data):
                return (-errno.EINVAL,)
            if self._read_only:
                return (-errno.EROFS,)
            # What lies beyond the end is dropped, with success.
            inside = data[: max(0, len(self._data) - offset)]
            self._data[offset : offset + len(inside)] = inside
            return (0,)

        return self._submit("write", f"write {offset}~{len(data)}", execute, oncomplete)

    def aio_write_zeroes(
        self, offset: int, length: int, oncomplete: OnComplete, zero_flags: int = 0
    ) -> object:
        self._require_open()
        _require_unsigned(offset, length)

        def execute() -> tuple[int]:
            if length and offset >= len(self._data):
                return (-errno.EINVAL,)
            if self._read_only:
                return (-errno.EROFS,)
            inside = max(0, min(length, len(self._data) - offset))
            self._data[offset : offset + inside] = bytes(inside)
            return (0,)

        return self._submit("write_zeroes", f"write_zeroes {offset}~{length}", execute, oncomplete)

    def aio_flush(self, oncomplete: OnComplete) -> object:
        self._require_open()
        return self._submit("flush", "flush", lambda: (0,), oncomplete)

    def close(self) -> None:
        """Close when everything submitted is complete; a second time nothing happens."""
        if self._closed:
            return
        self._closed = True
        self.submitted.append("close")
        self._requests.put(None)
        self._thread.join()
        self._content.opened.remove(self)
        if self._content.lock_owner is self:
            self._content.lock_owner = None
        if "close" in self.errors:
            raise rbd.OSError("error while closing image", errno=self.errors["close"])

    def _require_open(self) -> None:
        if self._closed:
            raise rbd.InvalidArgument("image is closed")

    def _submit(
        self,
        kind: str,
        text: str,
        execute: Callable[[], tuple[object, ...]],
        on_complete: OnComplete,
    ) -> object:
        self.submitted.append(text)

        def complete() -> None:
            ret, *data = (-self.errors[kind],) if kind in self.errors else execute()
            if kind == "read" and not data:
                data = [None]
            assert isinstance(ret, int)
            # As the binding: what a callback raises is kept with the completion and goes nowhere.
            with contextlib.suppress(Exception):
                on_complete(FakeCompletion(ret), *data)

        self._requests.put(complete)
        return object()

    def _serve(self) -> None:
        while (complete := self._requests.get()) is not None:
            self._released.wait()
            complete()


def _require_unsigned(*numbers: int) -> None:
    for number in numbers:
        if not 0 <= number < 2**64:
            raise OverflowError(f"{number} is not an unsigned 64-bit integer")
