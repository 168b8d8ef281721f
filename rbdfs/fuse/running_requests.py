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

from rbdfs.fuse.answers import errno_of
from rbdfs.fuse.request_meters import counted
from rbdfs.kernel.extra_requests import FH_DIRECT
from rbdfs.model.printable import printable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from rbdfs.fuse.mounted import Mounted
    from rbdfs.model.entry import Entry

    Method = TypeVar("Method", bound="Callable[..., Awaitable[Any]]")

log = logging.getLogger(__name__)


def tell(request: str, what: str, code: int, seconds: float) -> None:
    """Log one request: `write rbd/vm1 4096~8192: ok in 1.2 ms`."""
    result = "ok" if code == 0 else errno.errorcode.get(code, str(code))
    log.debug("%s %s: %s in %.1f ms", request, what, result, seconds * 1e3)


@dataclass(slots=True)
class Request:
    """One request: the name of its operation, with the arguments by their names.

    Attributes:
        what: what it is about in words, for -d; None without.
        count: counts it as answered, as request_meters.counted() has it.
    """

    name: str
    arguments: dict[str, Any]
    since: float
    what: str | None = None
    count: Callable[[Any, int], None] | None = None

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

    def begin(self, name: str, arguments: dict[str, Any]) -> Request:
        """Take in that an operation begins: its request is under way, and counted, until end()."""
        request = Request(name, arguments, time.monotonic())
        if log.isEnabledFor(logging.DEBUG):
            # What it names may be closed or forgotten when it ends.
            request.what = self._what(request)
        request.count = counted(self._mounted, name, arguments)
        self._running[id(request)] = request
        return request

    def end(self, request: Request, answer: Any, code: int) -> None:
        """Take in that *request* is answered: with what its operation returned, or an errno."""
        del self._running[id(request)]
        if request.count is not None:
            request.count(answer, code)
        if request.what is not None:
            tell(request.name, request.what, code, request.seconds)

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


def watched(method: Method) -> Method:
    """Have an operation be among the ``running`` of its object, a RunningRequests.

    What the operations call among themselves is not to come by here: it is no request.
    """
    name = method.__name__
    _, *parameters = inspect.signature(method).parameters

    @functools.wraps(method)
    async def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        arguments = dict(zip(parameters, args, strict=False)) | kwargs
        request = self.running.begin(name, arguments)
        answer, code = None, 0
        try:
            answer = await method(self, *args, **kwargs)
        except BaseException as exc:
            code = errno_of(name, exc)
            raise
        finally:
            self.running.end(request, answer, code)
        return answer

    return run  # type: ignore[return-value]
