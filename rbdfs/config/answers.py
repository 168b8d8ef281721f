"""What is told on stdout: names in any locale, and a full disk in one line as any other failure."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

from rbdfs.errors import UserError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_STDOUT = 1


class _Stdout(io.FileIO):
    """The descriptor; raises UserError where it takes nothing, and loses what follows."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError as exc:
            # What is buffered would be tried again at the end of the interpreter, with a traceback.
            null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            os.dup2(null, _STDOUT)
            os.close(null)
            raise UserError(f"cannot write the answer: {exc.strerror}") from exc


def answers() -> io.TextIOWrapper:
    """Return what is to be sys.stdout.

    A name that the locale has no characters for is told of in escapes, as stderr does by itself.
    """
    # None where the caller had closed it.
    before: TextIO | None = sys.stdout
    if before is not None:
        before.flush()
    raw = _Stdout(_STDOUT, "wb", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding="utf-8" if before is None else before.encoding,
        errors="backslashreplace",
        line_buffering=raw.isatty(),
    )
