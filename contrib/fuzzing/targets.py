"""The targets by name."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

CHECKOUT = Path(__file__).resolve().parents[2]
CORPORA = Path(__file__).resolve().parent / "corpora"
LARGEST_BYTES = 4096
"""Of an input that is kept, and of one that is tried."""

PYTHON = (
    *("headers", "listings", "object_maps", "partitions", "names", "messages", "estates"),
    *("requests", "monitors"),
)
NATIVE = ("datapath",)
ALL = (*PYTHON, *NATIVE)


def check_of(target: str) -> Callable[[bytes], None]:
    """Return the function of a target in Python: it raises where a promise is broken."""
    check: Callable[[bytes], None] = importlib.import_module(f"fuzzing.{target}").check
    return check
