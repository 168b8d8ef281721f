"""One open image or snapshot: its data, through librbd's aio requests."""

from __future__ import annotations

import contextlib
import os
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import rbd
import trio

from rbdfs.ceph.binding import iterate_diff, known_extents, resize
from rbdfs.ceph.blocking_image import lockers, refuse_advisory_lock
from rbdfs.ceph.errors import from_ceph
from rbdfs.errors import (
    BadArgument,
    Fenced,
    Incomplete,
    Missing,
    NoSpace,
    Outgrown,
    ReadOnly,
    TimedOut,
    failure,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from rbdfs.ceph.aio import AioBridge
    from rbdfs.ceph.binding import Binding, Extent

T = TypeVar("T")

_EXCLUSIVE_LOCK: int = rbd.RBD_FEATURE_EXCLUSIVE_LOCK
_NON_PRIMARY: int = rbd.RBD_FEATURE_NON_PRIMARY

# librbd takes less than 2 GiB in one request; less than that lets other requests in between.
_ZERO_CHUNK = 1 << 30


class Image:
    """An open image or snapshot.

    Attributes:
        spec: ``POOL/[NAMESPACE/]IMAGE[@SNAP]``, for messages.
        read_only: whether it was opened so; librbd refuses writes to it then.
        size: bytes, as of the opening or the last refresh().
        lock_held: whether acquire_lock() has taken the exclusive lock, and there still is one.
        volatile: whether librbd may keep acknowledged writes in memory, as far as asked.
        binding: the open ``rbd.Image``, or the native one that the data path serves.
    """

    def __init__(
        self,
        bridge: AioBridge,
        binding: Binding,
        spec: str,
        *,
        size: int,
        read_only: bool,
        list_extents: Callable[[Any], list[Extent]] = iterate_diff,
    ) -> None:
        self.spec = spec
        self.read_only = read_only
        self.size = size
        self.lock_held = False
        self.volatile = False
        self._bridge = bridge
        self._list_extents = list_extents
        self.binding = binding
        # The errno of what has failed for good: a fenced client stays one under an open file, even
        # when the fence is lifted; and what has timed out may land at any time, so that nothing
        # may be built upon it.
        self._failed = 0
        self._changes = 0
        self._in_flight = 0
        self._idle = trio.Event()
        self._idle.set()
        # A stuck image holds its own threads only.
        self._limiter = trio.CapacityLimiter(1)

    @property
    def changes(self) -> int:
        """A number that is another one whenever a change of the data is complete.

        It is so before whoever asked for the change is answered. What begins after this number
        was read, and before another change is complete, sees what all changes have made.
        """
        return self._changes + getattr(self.binding, "completed_writes", 0)

    def check(self) -> None:
        """Raise OSError where the image has failed for good: fenced, or a request timed out."""
        if failed := self._failed or getattr(self.binding, "failed", 0):
            raise failure(failed, f"{self.spec}: {os.strerror(failed)}, until it is opened anew")

    async def read(self, off: int, length: int) -> bytes:
        """Return *length* bytes at *off*, fewer only at the end of the image.

        Raises OSError: librbd's error, or EIO where it returned fewer bytes without one.
        """
        # librbd refuses a range that leaves the image (EINVAL), and an empty one is no request.
        length = min(length, self.size - off)
        if length <= 0:
            return b""
        submit = partial(self.binding.aio_read, off, length)
        ret, data = await self._call(f"read {off}~{length}", submit)
        if ret != length:
            raise Incomplete(f"{self.spec}: read {off}~{length} returned {ret} bytes")
        return bytes(data)

    async def write(self, off: int, data: bytes) -> int:
        """Write *data* at *off*, as far as it lies inside the image; return the bytes written.

        Raises OSError: ENOSPC at or past the end, as a block device does. librbd itself would
        report success for a write that straddles the end, and drop the tail.
        """
        room = self.size - off
        if room <= 0:
            raise NoSpace(f"{self.spec}: write {off}~{len(data)} is past the end")
        data = data[:room]
        if data:
            submit = partial(self.binding.aio_write, data, off)
            await self._change(f"write {off}~{len(data)}", submit)
        return len(data)

    async def write_zeroes(self, off: int, length: int) -> None:
        """Make ``off~length`` read as zeros, freeing the space where whole objects allow it.

        Clipped at the end of the image. Not discard: librbd leaves the old bytes of what is less
        than a discard granule. Raises OSError.
        """
        end = min(off + length, self.size)
        while off < end:
            # Aligned, so that no object is cut in two: its halves would be zeroed, not removed.
            chunk = min(end - off, _ZERO_CHUNK - off % _ZERO_CHUNK)
            submit = partial(self.binding.aio_write_zeroes, off, chunk)
            await self._change(f"write_zeroes {off}~{chunk}", submit)
            off += chunk

    async def extents(self) -> list[Extent] | None:
        """Return what is allocated, in whole objects, or None where librbd cannot quickly tell.

        That takes a valid fast-diff map; without it every object would have to be asked.
        """
        listing = partial(known_extents, self.binding, self._list_extents)
        return await self._blocking("extents", listing)

    async def flush(self) -> None:
        """Return when everything acknowledged so far is on the OSDs; raise OSError if not."""
        await self._call("flush", self.binding.aio_flush)

    async def refresh(self) -> None:
        """Learn the size anew: librbd may have to read the header for it."""
        self.size = await self._blocking("size", self.binding.size)

    async def check_primary(self) -> None:
        """Raise OSError EROFS for an image that another cluster is the primary of, by snapshots.

        librbd opens it for writing, answers EINVAL to lock_acquire(), and EROFS to each write.
        """
        if await self._blocking("features", self.binding.features) & _NON_PRIMARY:
            raise ReadOnly(f"{self.spec}: not the primary image of a mirror")

    async def acquire_lock(self, mode: int) -> None:
        """Take librbd's exclusive lock in a lock_mode(): no other client gets it until the close.

        Raises OSError: EBUSY or EROFS where another client keeps it, EROFS for an image that is
        not the primary of a mirror. Does nothing for an image without the feature.
        """
        if not await self._blocking("features", self.binding.features) & _EXCLUSIVE_LOCK:
            return
        await self._blocking("exclusive lock", self.binding.lock_acquire, mode)
        self.lock_held = True

    async def check_lock(self) -> None:
        """Raise OSError ESHUTDOWN where this client was fenced, which then is so for good.

        It asks the OSD, if the lock was taken here. That the lock is another's, or nobody's, is
        no error: after a lost watch librbd takes it again in its own time. Where the feature was
        disabled there is no lock any more, for anybody.
        """
        if not self.lock_held:
            return
        if not await self._blocking("features", self.binding.features) & _EXCLUSIVE_LOCK:
            self.lock_held = False
            return
        await self._blocking("lock", self.binding.is_exclusive_lock_owner)

    async def lock_owners(self) -> list[str] | None:
        """Return who had the exclusive lock at the opening; None where the feature is off."""
        if not await self._blocking("features", self.binding.features) & _EXCLUSIVE_LOCK:
            return None
        found = await self._blocking("lockers", lockers, self.binding)
        return [address for _client, _cookie, address in found]

    async def refuse_advisory_lock(self) -> None:
        """Raise OSError EBUSY where somebody held a lock of `rbd lock add` at the opening.

        librbd would ask for the exclusive lock without an end.
        """
        await self._blocking("lockers", refuse_advisory_lock, self.binding, f"{self.spec}: open")

    async def learn_cache(self) -> None:
        """Learn whether librbd may keep acknowledged writes in memory; raise OSError.

        What holds is what the configuration of the image or its pool says, which librbd puts above
        the client's.
        """
        listed = await self._blocking("settings", lambda: list(self.binding.config_list()))
        settings = {setting["name"]: setting["value"] for setting in listed}
        cached = settings.get("rbd_cache", "false") == "true"
        self.volatile = (
            cached and settings.get("rbd_cache_policy", "") != "writethrough"
        ) or "pwl_cache" in settings.get("rbd_plugins", "")

    async def watchers(self) -> list[str]:
        """Return the addresses of the clients that have the image open for writing."""
        found = await self._blocking("watchers", lambda: list(self.binding.watchers_list()))
        return [watcher["addr"] for watcher in found]

    async def resize(self, size: int, *, shrink: bool = False) -> None:
        """Resize to *size* bytes, which librbd hands to the lock's owner where that is another.

        With *shrink* what lies beyond is gone. Without it an image that another client has made
        larger since somebody looked stays as it is. Raises OSError; Outgrown for that.
        """
        try:
            await self._alter(f"resize to {size}", resize, self.binding, size, shrink)
        except BadArgument as exc:
            await self.refresh()
            if shrink or self.size <= size:
                raise
            message = f"{self.spec}: resize to {size}: it has {self.size} bytes by now"
            raise Outgrown(message) from exc
        finally:
            self._changes += 1
        await self.refresh()

    async def set_meta(self, key: str, value: str) -> None:
        """Set image-meta, by the client that has the image open: what fences it, fences this.

        Raises OSError.
        """
        await self._alter(f"set {key}", self.binding.metadata_set, key, value)

    async def remove_meta(self, key: str) -> None:
        """Remove image-meta, if there is any, as set_meta() sets it; raise OSError."""
        # Debian's binding says KeyError.
        with contextlib.suppress(KeyError, Missing):
            await self._alter(f"remove {key}", self.binding.metadata_remove, key)

    async def close(self) -> None:
        """Close, after the requests in flight are complete; raise OSError if librbd cannot."""
        await self._idle.wait()
        await self._blocking("close", self.binding.close)

    async def _alter(self, action: str, call: Callable[..., None], *args: object) -> None:
        """Call what changes the header of the image."""
        self.check()
        try:
            await self._blocking(action, call, *args)
        except TimedOut as exc:
            # It may land later, and librbd is not told: it would go on with what was before.
            self._failed = exc.code
            raise

    async def _blocking(self, action: str, call: Callable[..., T], *args: object) -> T:
        try:
            with from_ceph(f"{self.spec}: {action}"):
                return await trio.to_thread.run_sync(partial(call, *args), limiter=self._limiter)
        except Fenced as exc:
            self._failed = exc.code
            raise

    async def _change(self, action: str, submit: Callable[..., object]) -> None:
        try:
            await self._call(action, submit)
        finally:
            # What has failed may have changed something.
            self._changes += 1

    async def _call(self, action: str, submit: Callable[..., object]) -> tuple[int, Any]:
        self.check()
        if self._in_flight == 0:
            self._idle = trio.Event()
        self._in_flight += 1
        message = f"{self.spec}: {action}"
        try:
            with from_ceph(message):
                return await self._bridge.call(message, submit)
        except (Fenced, TimedOut) as exc:
            self._failed = exc.code
            raise
        finally:
            self._in_flight -= 1
            if self._in_flight == 0:
                self._idle.set()
