"""The terminal of the caller: each key as it is pressed, and afterwards its settings again."""

from __future__ import annotations

import contextlib
import os
import re
import termios

# Of what tcgetattr(3) returns.
_IFLAG, _LFLAG, _CC = 0, 3, 6
# What keys like the arrows send begins so, and has letters in it that are keys by themselves.
_SEQUENCE = re.compile(r"\x1b(?:\[[0-9;?]*[@-~]|O.|.)?")


class TerminalGone(Exception):
    """Nobody is there any more who could press a key."""


class Keyboard:
    """The keys of the terminal that a descriptor is of, as a context in which it echoes nothing."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __enter__(self) -> Keyboard:
        self._attributes = termios.tcgetattr(self._descriptor)
        attributes = [*self._attributes[:_CC], [*self._attributes[_CC]]]
        # Ctrl-C and Ctrl-Z stay signals. Ctrl-S would make who writes hang, and deaf for SIGTERM.
        attributes[_IFLAG] &= ~termios.IXON
        attributes[_LFLAG] &= ~(termios.ECHO | termios.ICANON)
        attributes[_CC][termios.VMIN], attributes[_CC][termios.VTIME] = 1, 0
        termios.tcsetattr(self._descriptor, termios.TCSANOW, attributes)
        return self

    def __exit__(self, *_exc: object) -> None:
        # Of one that was closed there is nothing to restore. TCSADRAIN might wait for ever.
        with contextlib.suppress(termios.error):
            termios.tcsetattr(self._descriptor, termios.TCSANOW, self._attributes)

    def fileno(self) -> int:
        return self._descriptor

    def read(self) -> str:
        """Return the keys that were pressed, without those that send a sequence.

        Raises TerminalGone.
        """
        try:
            pressed = os.read(self._descriptor, 256)
        except OSError as exc:
            raise TerminalGone from exc
        if not pressed:
            raise TerminalGone
        return _SEQUENCE.sub("", pressed.decode("utf-8", "replace"))
