"""The requests that Python carries out: what each is, since when, and for -d how it ended."""

from __future__ import annotations

import errno
import functools
import inspect
import logging
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pyfuse3 import FUSEError

from rbdfs.kernel.extra_requests import FH_DIRECT
from rbdfs.model.printable import printable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from rbdfs.fuse.mounted import Mounted
    from rbdfs.model.entry import Entry

    AnyOperations = TypeVar("AnyOperations", bound=type[Any])
    Method = TypeVar("Method", bound="Callable[..., Awaitable[Any]]")

log = logging.getLogger(__name__)


def tell(request: str, what: str, code: int, seconds: float) -> None:
    """Log one request: `write rbd/vm1 4096~8192: ok in 1.2 ms`."""
    result = "ok" if code == 0 else errno.errorcode.get(code, str(code))
    log.debug("%s %s: %s in %.1f ms", request, what, result, seconds * 1e3)


@dataclass(slots=True)
class Request:
    """One request: the name of its operation, with the arguments by their names."""

    name: str
    arguments: dict[str, Any]
    since: float

    @property
    def seconds(self) -> float:
        """How long it has been carried out, in seconds."""
        return time.monotonic() - self.since


class RunningRequests:
    """Those of one mount that are under way, in the order of their beginning."""

    def __init__(self, mounted: Mounted) -> None:
        self._mounted = mounted
        self._running: dict[int, Request] = {}

    def __iter__(self) -> Iterator[Request]:
        return iter(list(self._running.values()))

    async def run(self, request: Request, answer: Awaitable[Any]) -> Any:
        """Return *answer*, of *request*, which is under way until it is there; raise as it does."""
        # What it names may be closed or forgotten when it ends.
        what = self._what(request) if log.isEnabledFor(logging.DEBUG) else None
        code = errno.EINTR
        self._running[id(request)] = request
        try:
            answered = await answer
            code = 0
        except FUSEError as exc:
            code = exc.errno
            raise
        else:
            return answered
        finally:
            del self._running[id(request)]
            if what is not None:
                tell(request.name, what, code, request.seconds)

    def entry(self, request: Request) -> Entry | None:
        """Return what *request* is about, as far as that is known by now."""
        for name, value in request.arguments.items():
            if (found := self._entry(name, value)) is not None:
                return found
        return None

    def _entry(self, name: str, value: object) -> Entry | None:
        if not isinstance(value, int):
            return None
        try:
            if "inode" in name:
                return self._mounted.inodes.entry(value)
            return self._file(value) if name.startswith("fh") else None
        except OSError:
            return None

    def _file(self, fh: int) -> Entry:
        try:
            return self._mounted.handles[fh & ~FH_DIRECT].entry
        except OSError:
            return self._mounted.directories.directory(fh).entry

    def _what(self, request: Request) -> str:
        """Return what *request* is about in words: files, names and `off~len`."""
        words = []
        given = request.arguments
        length = given.get("size", given.get("length", len(given.get("buf", b""))))
        for name, value in given.items():
            if (entry := self._entry(name, value)) is not None:
                words.append(entry.spec or "/")
            elif name.startswith("off"):
                words.append(f"{value}~{length}")
            elif "name" in name and isinstance(value, bytes):
                # Of a directory, whose spec ends so.
                in_directory = words and words[-1].endswith("/")
                directory = words.pop() if in_directory else ""
                words.append(directory + printable(os.fsdecode(value)))
            elif name.startswith(("fh", "inode", "unique")) and value is not None:
                words.append(f"{name} {value}")
        return " ".join(words)


def watched(operations: AnyOperations) -> AnyOperations:
    """Have every operation of a class run in its ``running``, a RunningRequests."""
    for name, method in inspect.getmembers(operations, inspect.iscoroutinefunction):
        if not name.startswith("_"):
            setattr(operations, name, _watched(name, method))
    return operations


def _watched(name: str, method: Method) -> Method:
    _, *parameters = inspect.signature(method).parameters

    @functools.wraps(method)
    async def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        arguments = dict(zip(parameters, args, strict=False)) | kwargs
        request = Request(name, arguments, time.monotonic())
        return await self.running.run(request, method(self, *args, **kwargs))

    return run  # type: ignore[return-value]
