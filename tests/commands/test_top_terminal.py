"""`rbdfs top` on a terminal: its keys, and the terminal as it was, whatever ends it."""

from __future__ import annotations

import os
import signal
import termios
from typing import TYPE_CHECKING

import pytest

from tests.commands.test_top import read_and_write
from tests.support.conditions import eventually, is_stopped
from tests.support.images import MIB, import_image, random_bytes
from tests.support.mounts import RBDFS, TIMEOUT_S, opened
from tests.support.servers import killed_server, repeatedly
from tests.support.terminals import Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.ceph import Ceph
    from tests.support.mounts import Mount, Mounting

pytestmark = pytest.mark.usefixtures("native")


def command(mount: Mount) -> list[str]:
    return [str(RBDFS), "top", "--interval=0.2", str(mount.path)]


@pytest.fixture
def shown(mount: Mount) -> Iterator[Terminal]:
    """One that shows a mount."""
    with Terminal(command(mount)) as terminal:
        terminal.shows("serving")
        yield terminal


def images(terminal: Terminal) -> list[str]:
    """The names of those that are shown, in order."""
    lines = terminal.screen()
    titles = [number for number, line in enumerate(lines) if line.startswith("IMAGE")]
    if not titles:
        return []
    return [line.split()[0] for line in lines[titles[0] + 1 :] if line.startswith("of-")]


def first_of(terminal: Terminal, name: str) -> bool:
    return eventually(lambda: images(terminal)[:1] == [name], what=f"{name} as the first")


def test_keys_sort_and_halt(ceph: Ceph, pool: str, mount: Mount) -> None:
    # Of three images, each is the first by something.
    loads = {"of-a": (1, 0, 0), "of-b": (3, 0, 8), "of-c": (2, 9, 0)}
    for name in loads:
        import_image(ceph, f"{pool}/{name}", random_bytes(MIB))

    def work() -> None:
        for name, (opens, reads, writes) in loads.items():
            for _ in range(opens):
                with opened(mount.file(name), os.O_RDWR | os.O_DIRECT) as file:
                    read_and_write(file, reads, writes)

    with repeatedly(work, 0.001), Terminal(command(mount)) as terminal:
        terminal.shows("of-c")
        for key, order in (("r", "c"), ("w", "b"), ("n", "a"), ("b", "b"), ("i", "b")):
            terminal.press(f"\x1b[D\x1bn{key}" if key != "n" else key)
            assert first_of(terminal, f"of-{order}")
        terminal.press(" ")
        terminal.shows("paused")
        before = terminal.screen()
        said = len(terminal.said)
        terminal.press("n")
        eventually(lambda: images(terminal) == ["of-a", "of-b", "of-c"], what="the order of names")
        assert len(terminal.said) > said
        # The same figures, in another order.
        assert sorted(terminal.screen()[4:7]) == sorted(before[4:7])
        assert terminal.screen()[:2] == before[:2]
        terminal.press(" ")
        terminal.shows(r"serving.*:\d\d$")
        terminal.resize(200, 10)
        terminal.shows("WRITE MiB/s")
        terminal.resize(60, 8)
        terminal.shows("p99 ms DEPTH$")
        terminal.press("q")
        assert terminal.ended() == 0


def test_ctrl_c(shown: Terminal) -> None:
    shown.press("\x03")
    assert shown.ended() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_signals(shown: Terminal, number: signal.Signals) -> None:
    shown.process.send_signal(number)
    assert shown.ended() == 0


def test_an_exception(mount: Mount) -> None:
    """Whatever goes wrong, the terminal is as it was, and says what."""
    program = (
        "import sys\n"
        "from rbdfs.commands import top_live\n"
        "from rbdfs.cli import main\n"
        "draw, count = top_live._draw, iter(range(9))\n"
        "top_live._draw = lambda *a: (draw(*a), 3 / (3 - next(count)))\n"
        "sys.exit(main())\n"
    )
    interpreter = RBDFS.parent / "python"
    with Terminal([interpreter, "-c", program, *command(mount)[1:]]) as terminal:
        assert terminal.ended() == 1
        assert "ZeroDivisionError" in "\n".join(terminal.screen())


def test_ctrl_z_gives_the_terminal_back(shown: Terminal) -> None:
    shown.press("\x1a")
    eventually(lambda: is_stopped(shown.process.pid), what="its stop")
    assert termios.tcgetattr(shown.slave) == shown.before
    shown.process.send_signal(signal.SIGCONT)
    eventually(lambda: termios.tcgetattr(shown.slave) != shown.before, what="its going on")
    shown.shows("serving")
    shown.press("q")
    assert shown.ended() == 0


def test_a_terminal_that_is_closed(shown: Terminal) -> None:
    shown.close()
    assert shown.process.wait(TIMEOUT_S) == 0


def test_a_server_that_is_killed_and_the_end(pool: str, mounting: Mounting) -> None:
    with mounting(pool) as mount, Terminal(command(mount)) as terminal:
        terminal.shows("serving")
        killed_server(mount)
        terminal.shows("restarts 1")
        mount.unmount()
        mount.wait()
        assert terminal.ended() == 0
        assert terminal.shows("unmounted") == f"rbdfs: {mount.path}: unmounted"
