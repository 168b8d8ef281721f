"""rbdfs with faults in it: `python -m tests.support.faults FILE TARGET[,TARGET...] ARGUMENT...`.

A TARGET is `MODULE:CLASS.METHOD`. While FILE holds its name, calling the method raises
ZeroDivisionError, which nothing in rbdfs can expect. The ARGUMENTS are those of rbdfs; with
datapath=python, where this process is the one that serves.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def inject(control: Path, target: str) -> None:
    """Replace a method by one that fails while `control` says so."""
    module, _, name = target.partition(":")
    class_name, _, method_name = name.partition(".")
    owner = getattr(importlib.import_module(module), class_name)
    method: Callable[..., Any] = getattr(owner, method_name)

    def faulty(*args: Any, **kwargs: Any) -> Any:
        if control.read_text() == target:
            raise ZeroDivisionError(f"injected into {target}")
        return method(*args, **kwargs)

    setattr(owner, method_name, faulty)


if __name__ == "__main__":
    for target in sys.argv[2].split(","):
        inject(Path(sys.argv[1]), target)
    from rbdfs.cli import main

    sys.exit(main(sys.argv[3:]))
