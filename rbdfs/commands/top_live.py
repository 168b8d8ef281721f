"""`rbdfs top` on a terminal: drawn again and again, until a key or a signal ends it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.control import Control

from rbdfs.commands.terminal import Keyboard, TerminalGone
from rbdfs.commands.top_figures import ORDERS
from rbdfs.commands.top_screen import View, screen
from rbdfs.keeper.daemonise import SignalSocket

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import ScreenContext

    from rbdfs.commands.top_figures import MountLoad
    from rbdfs.commands.watched_mounts import WatchedMounts

_SIGNALS = (
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT),
    *(signal.SIGTSTP, signal.SIGWINCH),
)
_FIRST_S = 1.0
# How long keys may wait for a server to say how it does, in seconds.
_PATIENCE_S = 0.1
_ORDERS = {order.key: order for order in ORDERS}
_QUIT = ("q", "\x03")


def console() -> Console:
    """Return the console of stdout, which takes nothing for markup."""
    return Console(markup=False, emoji=False, highlight=False)


def has_unicode(of: Console) -> bool:
    """Tell whether what shows it has more than ASCII."""
    return of.encoding.lower().startswith("utf")


@dataclass(slots=True)
class _State:
    """What was pressed so far, and what is shown."""

    shown: Sequence[MountLoad]
    latest: Sequence[MountLoad]
    order: str = ORDERS[0].key
    paused: bool = False
    over: bool = False
    stopped: bool = False

    def press(self, keys: str) -> None:
        for key in keys:
            if key in _QUIT:
                self.over = True
            elif key == " ":
                self.paused = not self.paused
                self.shown = self.latest
            elif key in _ORDERS:
                self.order = key

    def obey(self, signals: Sequence[signal.Signals]) -> None:
        for number in signals:
            if number == signal.SIGTSTP:
                self.stopped = True
            elif number != signal.SIGWINCH:
                self.over = True

    def read(self, loads: Sequence[MountLoad]) -> None:
        self.latest = loads
        if not self.paused:
            self.shown = loads


def watch(mounts: WatchedMounts, interval_s: float) -> None:
    """Show the load of *mounts* until all have ended, or somebody wants no more.

    The terminal is as it was before when this returns or raises, and while the process is stopped.
    """
    out = console()
    mounts.ask(_PATIENCE_S)
    state = _State(loads := mounts.loads(), loads)
    # Nobody waits a minute to see anything.
    due_s = time.monotonic() + min(interval_s, _FIRST_S)
    with SignalSocket(*_SIGNALS) as signals, contextlib.suppress(TerminalGone):
        while not state.over and not mounts.over:
            with Keyboard(sys.stdin.fileno()) as keyboard, _screen(out) as shown:
                state.stopped = False
                _draw(shown, out, state)
                while not (state.over or state.stopped or mounts.over):
                    ready = mounts.wait(due_s - time.monotonic(), keyboard, signals)
                    if signals in ready:
                        state.obey(signals.receive())
                    if keyboard in ready:
                        state.press(keyboard.read())
                    if due := time.monotonic() >= due_s:
                        due_s = _next(due_s, interval_s)
                        mounts.ask(_PATIENCE_S)
                        state.read(mounts.loads())
                    if ready or due:
                        _draw(shown, out, state)
            if state.stopped:
                os.kill(os.getpid(), signal.SIGSTOP)


def _next(due_s: float, interval_s: float) -> float:
    """Return when the next look is due; those are left out for which it is too late."""
    late = max(time.monotonic() - due_s, 0.0)
    return due_s + interval_s * (late // interval_s + 1)


@contextlib.contextmanager
def _screen(out: Console) -> Iterator[ScreenContext]:
    """Yield the terminal's other screen; raise TerminalGone where there is no terminal any more."""
    shown = out.screen()
    with _terminal():
        shown.__enter__()
    try:
        yield shown
    finally:
        # Nobody sees it any more.
        with contextlib.suppress(OSError):
            shown.__exit__(None, None, None)


@contextlib.contextmanager
def _terminal() -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise TerminalGone from exc


def _draw(shown: ScreenContext, out: Console, state: _State) -> None:
    view = View(
        mounts=state.shown,
        order=_ORDERS[state.order],
        width=out.width,
        height=out.height,
        clock="paused" if state.paused else time.strftime("%H:%M:%S"),
        paused=state.paused,
        unicode=has_unicode(out),
    )
    with _terminal():
        # Drawn over the last one, of which nothing is left: the screen has as many lines.
        out.control(Control.home())
        shown.update(screen(view))
