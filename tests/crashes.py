"""rbdfs whose server is killed at a chosen step: `python tests/crashes.py FILE ARGUMENT...`.

FILE holds `before MODULE:NAME` or `after MODULE:NAME`, where NAME is a coroutine function or a
CLASS.METHOD. The server that gets there first removes FILE and kills itself; its successors do not
know of it any more. The ARGUMENTS are those of rbdfs.
"""

from __future__ import annotations

import functools
import importlib
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rbdfs import succession

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def inject(control: Path) -> None:
    """Have this process killed where `control` says."""
    when, _, target = control.read_text().partition(" ")
    module, _, path = target.partition(":")
    *classes, name = path.split(".")
    owner = functools.reduce(getattr, classes, importlib.import_module(module))
    step: Callable[..., Awaitable[Any]] = getattr(owner, name)

    def crash() -> None:
        control.unlink()
        os.kill(os.getpid(), signal.SIGKILL)

    async def crashing(*args: Any, **kwargs: Any) -> Any:
        if when == "before":
            crash()
        result = await step(*args, **kwargs)
        crash()
        return result

    setattr(owner, name, crashing)


if __name__ == "__main__":
    control = Path(sys.argv.pop(1))
    if sys.argv[1] == "--server":
        from rbdfs.server import main as serve

        del sys.argv[1]
        if control.exists():
            inject(control)
        sys.exit(serve())
    from rbdfs.cli import main

    succession.SERVER = [sys.executable, __file__, str(control), "--server"]
    sys.exit(main(sys.argv[1:]))
