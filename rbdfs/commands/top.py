"""``rbdfs top``."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

from rbdfs.commands.output import print_json
from rbdfs.commands.top_figures import ORDERS
from rbdfs.commands.watched_mounts import WatchedMounts
from rbdfs.config.extras import require
from rbdfs.errors import EXIT_FAILURE, EXIT_USAGE, UserError
from rbdfs.model.meters_layout import OTHERS
from rbdfs.model.printable import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rbdfs.commands.top_figures import ImageLoad, MountLoad
    from rbdfs.config.command_line import Request
    from rbdfs.model.rates import OperationRates, Rates

_SHORTEST_S = 0.1
_ANSWER_S = 2.0


def run(request: Request) -> int:
    """Show the load until somebody wants no more, or once; raise UserError."""
    interval_s: float = request.values["interval"]
    if interval_s < _SHORTEST_S:
        raise UserError(f"--interval is {_SHORTEST_S:g} or more", EXIT_USAGE)
    once = request.values["once"] or request.json
    if not request.json:
        require("rich", "rbdfs top without --json", "top", "python3-rich")
    if not once and not (sys.stdin.isatty() and sys.stdout.isatty() and _can_move()):
        raise UserError("this is no terminal that can be drawn on: see --once", EXIT_USAGE)
    path = request.operands[0] if request.operands else None
    with WatchedMounts(path, interval_s) as mounts:
        if once:
            loads = _sample(mounts, interval_s)
            if request.json:
                print_json(facts(loads))
            else:
                _print_table(loads)
            return 0
        # What it needs a program does without.
        from rbdfs.commands.top_live import watch

        watch(mounts, interval_s)
        return _told_of_ends(mounts)


def _can_move() -> bool:
    return os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


def _sample(mounts: WatchedMounts, interval_s: float) -> list[MountLoad]:
    """Return the load of the next *interval_s*."""
    mounts.ask(_ANSWER_S)
    mounts.loads()
    until_s = time.monotonic() + interval_s
    while (left_s := until_s - time.monotonic()) > 0:
        mounts.wait(left_s)
    # How each does now, and its lag meanwhile.
    mounts.ask(_ANSWER_S)
    if mounts.over:
        raise UserError("; ".join(text for text, _ in mounts.ends))
    return mounts.loads()


def _print_table(loads: Sequence[MountLoad]) -> None:
    from rbdfs.commands.top_live import console, has_unicode
    from rbdfs.commands.top_screen import View, screen

    out = console()
    out.print(
        screen(
            View(
                mounts=loads,
                order=ORDERS[0],
                width=out.width,
                height=None,
                live=False,
                unicode=has_unicode(out),
            )
        )
    )


def _told_of_ends(mounts: WatchedMounts) -> int:
    """Say which mounts have ended; return the exit code."""
    for text, _ in mounts.ends:
        print(f"rbdfs: {printable(text)}", file=sys.stderr)
    # Who wants no more of those that are left has got what he wanted.
    return EXIT_FAILURE if mounts.over and any(failed for _, failed in mounts.ends) else 0


def facts(loads: Sequence[MountLoad]) -> dict[str, Any]:
    """Return what a program is told."""
    return {"mounts": [_mount(each) for each in loads]}


def _mount(load: MountLoad) -> dict[str, Any]:
    condition = load.condition
    return {
        "mountpoint": load.mountpoint,
        "source": load.source,
        "state": condition.state,
        "restarts": condition.restarts,
        "last_fault": condition.last_fault or None,
        "lag_ms": condition.lag_ms,
        "waits_s": condition.waits_s,
        "reason": condition.reason or None,
        "answered_s": _rounded(load.answered_s),
        # Exact enough for who wants the sums.
        "seconds": round(load.seconds, 6),
        # Where nothing could be read, nothing is told: not even zeros.
        **(_rates(load.rates) if load.seconds else dict.fromkeys(_rates(load.rates))),
        "images": [_image(each) for each in load.images],
    }


def _image(load: ImageLoad) -> dict[str, Any]:
    return {"image": load.spec if load.spec != OTHERS else None, **_rates(load.rates)}


def _rates(rates: Rates) -> dict[str, Any]:
    return {
        "read": _operation(rates.read),
        "write": _operation(rates.write),
        "other": _operation(rates.other),
        "p50_ms": _ms(rates.both.p50_s),
        "p99_ms": _ms(rates.both.p99_s),
        "errors_per_s": _rounded(rates.errors),
        "in_flight": rates.in_flight,
    }


def _operation(rates: OperationRates) -> dict[str, Any]:
    return {
        "iops": _rounded(rates.iops),
        "bytes_per_s": _rounded(rates.bytes_s),
        "p50_ms": _ms(rates.p50_s),
        "p99_ms": _ms(rates.p99_s),
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else _rounded(seconds * 1e3)


def _rounded(figure: float | None) -> float | None:
    return None if figure is None else round(figure, 3)
