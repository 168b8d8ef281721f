"""What an installation that cannot work says: one line. contrib/install-test has those that can."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
NEEDED = CHECKOUT / "contrib" / "building" / "needed.py"
COMMAND = "import sys; from rbdfs.cli import main; sys.exit(main())"
NO_BINDINGS = " has no rados and rbd"


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    """The Python of a venv that does not see Debian's packages."""
    venv = tmp_path / "venv"
    command = ["/usr/bin/python3", "-m", "venv", "--without-pip", str(venv)]
    subprocess.run(command, check=True, timeout=60)
    return venv / "bin" / "python"


def refusal(*command: str | Path, **environment: str) -> tuple[int, str]:
    """The exit code of a command that prints nothing but on stderr, and that."""
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | environment,
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


def test_installing_without_the_bindings(alone: Path) -> None:
    code, text = refusal(alone, NEEDED)
    assert code == 1
    assert text == (
        f"rbdfs: {alone}{NO_BINDINGS}: install python3-rados and python3-rbd, which belong to"
        " /usr/bin/python3, and to its venvs with --system-site-packages\n"
    )


def with_bindings(python: Path) -> None:
    """Give a venv something by their names."""
    (packages,) = python.parents[1].glob("lib/python3*/site-packages")
    for name in ("rados", "rbd"):
        (packages / f"{name}.py").touch()


def test_installing_without_libfuse(alone: Path, tmp_path: Path) -> None:
    with_bindings(alone)
    # A compiler, and a pkg-config that knows nothing.
    for name, status in (("gcc", 0), ("pkg-config", 1)):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\nexit {status}\n")
        program.chmod(0o755)
    assert refusal(alone, NEEDED, PATH=str(tmp_path)) == (
        1,
        "rbdfs: pyfuse3 is to be compiled: apt-get install libfuse3-dev\n",
    )
    (tmp_path / "gcc").unlink()
    (tmp_path / "pkg-config").unlink()
    assert refusal(alone, NEEDED, PATH=str(tmp_path)) == (
        1,
        "rbdfs: pyfuse3 is to be compiled: apt-get install gcc pkg-config libfuse3-dev\n",
    )


def test_an_environment_that_has_all() -> None:
    assert refusal(sys.executable, NEEDED) == (0, "")


@pytest.mark.parametrize("arguments", [[], ["-f"], ["-o", "datapath=python"]], ids=" ".join)
def test_starting_without_the_bindings(alone: Path, tmp_path: Path, arguments: list[str]) -> None:
    command: list[str | Path] = [alone, "-c", COMMAND, *arguments, "rbd", str(tmp_path)]
    code, text = refusal(*command, PYTHONPATH=str(CHECKOUT))
    assert code == 1
    assert text.startswith(f"rbdfs: {alone}{NO_BINDINGS} and pyfuse3: ")
    assert text.count("\n") == 1
