"""Writers that make one new file grow, while descriptors of it are closed beside them."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import Any

from soaking import content


class Storm:
    """Several writers, each with its own part of a file, and others that close descriptors of it.

    Attributes of its shape:
        file, version: what is written.
        writers: threads; each has a descriptor of its own, but for the first, which made the file.
        chunks, chunk: how many writes each makes, and how large they are.
        closing: ``dup`` closes duplicates; ``fork`` has children end; ``open`` opens and closes the
            file; ``none``.
    """

    def __init__(
        self,
        path: str,
        user: int,
        *,
        file: int,
        version: int,
        writers: int,
        chunks: int,
        chunk: int,
        closing: str,
    ) -> None:
        self._path, self._user = path, user
        self._file, self._version = file, version
        self._writers, self._chunks, self._chunk = writers, chunks, chunk
        self._closing = closing
        self._over = threading.Event()
        self._errors: list[str] = []

    def blow(self) -> dict[str, Any]:
        """Return ``errors`` in the order they came; raise OSError where the file cannot be made."""
        made = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        # The bystander's descriptors are its own: close(2) of one in use elsewhere is its fault.
        beside = os.dup(made)
        closer = threading.Thread(target=self._close, args=(beside,), daemon=True)
        writers = [
            threading.Thread(target=self._write, args=(made, number), daemon=True)
            for number in range(self._writers)
        ]
        for thread in (closer, *writers):
            thread.start()
        for writer in writers:
            writer.join()
        self._over.set()
        closer.join()
        # An error of one close(2) must not keep the other from being closed.
        for fd in (beside, made):
            try:
                os.close(fd)
            except OSError as exc:
                self._errors.append(f"close: {os.strerror(exc.errno or 0)}")
        return {"errors": self._errors}

    def _write(self, made: int, number: int) -> None:
        first = number * self._chunks
        try:
            if number == 0:
                self._fill(made, first)
                return
            with open(self._path, "r+b", buffering=0) as file:
                self._fill(file.fileno(), first)
        except OSError as exc:
            self._errors.append(f"writer {number}: {os.strerror(exc.errno or 0)}")

    def _fill(self, fd: int, first: int) -> None:
        for index in range(first, first + self._chunks):
            off = index * self._chunk
            data = content.pattern(self._file, self._user, self._version, off, self._chunk)
            written = os.pwrite(fd, data, off)
            if written != self._chunk:
                self._errors.append(f"write of {self._chunk} at {off}: {written}")

    def _close(self, fd: int) -> None:
        while not self._over.wait(0.001) and self._closing != "none":
            with contextlib.suppress(OSError):
                if self._closing == "dup":
                    os.close(os.dup(fd))
                elif self._closing == "open":
                    os.close(os.open(self._path, os.O_RDWR | os.O_CLOEXEC))
                elif (pid := os.fork()) == 0:
                    os._exit(0)
                else:
                    os.waitpid(pid, 0)
