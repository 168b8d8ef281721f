"""A terminal for a program: keys are pressed, and what it shows is looked at."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len

from tests.support.conditions import eventually

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_HOME, _OTHER, _BACK = "\x1b[H", "\x1b[?1049h", "\x1b[?1049l"
_TIMEOUT_S = 30.0


class Terminal:
    """A terminal with a program in its foreground, as a context; nothing is left of it.

    Attributes:
        process: the program.
        before: the settings that it found.
    """

    def __init__(self, command: Sequence[Any], columns: int = 80, rows: int = 20) -> None:
        self._command = [str(word) for word in command]
        self._size = columns, rows
        self._said = ""

    def __enter__(self) -> Terminal:
        self._master, self.slave = pty.openpty()
        self.resize(*self._size)
        self.before = termios.tcgetattr(self.slave)
        environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            # It is the terminal's own, so that Ctrl-C there is for it.
            ["setsid", "--ctty", *self._command],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            env=environment | {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8"},
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is not None:
            exc.add_note(f"the terminal shows:\n{self.screen()}")
        self.process.kill()
        self.process.wait(_TIMEOUT_S)
        self.close()

    def close(self) -> None:
        """Take it away from the program."""
        for descriptor in {self._master, self.slave} - {-1}:
            os.close(descriptor)
        self._master = self.slave = -1

    def resize(self, columns: int, rows: int) -> None:
        self._size = columns, rows
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    @property
    def said(self) -> str:
        """All that the program has written so far."""
        while self._master >= 0 and select.select([self._master], [], [], 0)[0]:
            self._said += os.read(self._master, 1 << 16).decode("utf-8", "replace")
        return self._said

    def screen(self) -> list[str]:
        """The lines of the last picture that is whole, and of what was said after the last one."""
        pictures = self.said.rpartition(_BACK)
        if pictures[1]:
            return _lines(pictures[2])
        for picture in reversed(pictures[2].split(_HOME)):
            lines = _ESCAPE.sub("", picture).split("\n")
            # A whole one has all lines, and the last is as wide as the screen.
            if len(lines) == self._size[1] and cell_len(lines[-1]) == self._size[0]:
                return _lines(picture)
        return []

    def shows(self, pattern: str) -> str:
        """Wait until a line of it has this pattern, and return it."""

        def line() -> str | None:
            return next((each for each in self.screen() if re.search(pattern, each)), None)

        found = eventually(line, what=f"{pattern} on the screen")
        assert found is not None
        return found

    def ended(self) -> int:
        """The exit code; everything is as it was before."""

        def code() -> int | None:
            # What it writes is read meanwhile, or it would never end.
            assert self.said is not None
            return self.process.poll()

        eventually(lambda: code() is not None, what="the end")
        assert termios.tcgetattr(self.slave) == self.before
        assert self.said.count(_OTHER) == self.said.count(_BACK)
        assert self.said.rfind("\x1b[?25h") >= self.said.rfind("\x1b[?25l")
        assert self.process.returncode is not None
        return self.process.returncode


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in _ESCAPE.sub("", text).replace("\r", "").split("\n")]
