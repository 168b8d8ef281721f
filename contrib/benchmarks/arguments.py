"""Arguments that the benchmarks and the soak take: which program, on which cluster."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.process import CHECKOUT


def count(text: str) -> int:
    """A whole number from 1 on."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"less than 1: {text}")
    return value


def add_bench(top: argparse.ArgumentParser) -> None:
    """Add --cluster and --rbdfs."""
    top.add_argument(
        "--cluster",
        type=Path,
        metavar="DIR",
        help="a running cluster of contrib/cluster; default: one for this run",
    )
    top.add_argument(
        "--rbdfs",
        type=Path,
        default=CHECKOUT / ".venv" / "bin" / "rbdfs",
        metavar="PROGRAM",
        help="default: .venv/bin/rbdfs in the checkout",
    )


def add_program(top: argparse.ArgumentParser) -> None:
    """Add --options and what add_bench() adds."""
    add_bench(top)
    top.add_argument("--options", default="", metavar="OPT[,OPT...]", help="for rbdfs -o")
