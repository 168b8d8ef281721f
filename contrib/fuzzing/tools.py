"""What it takes to fuzz: atheris and clang, which nothing else of rbdfs needs.

atheris goes into .cache, beside the packages of .venv and not among them: what is tested and
shipped never sees it. clang is a package of the distribution.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

from fuzzing.targets import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

CACHE = CHECKOUT / ".cache" / "fuzz"
PYTHON = CHECKOUT / ".venv" / "bin" / "python"
_ATHERIS = "atheris>=3,<4"
_SITE = CACHE / "atheris"
_CLANG = ("clang", "libclang-rt-dev")
_SOURCES = CHECKOUT / "rbdfs" / "datapath" / "src"
_SANITIZED = (
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    "-fno-omit-frame-pointer",
)


class FuzzError(Exception):
    """It cannot be run: told in one line."""


def engine(target: str) -> tuple[list[str], dict[str, str]]:
    """Return the command that fuzzes a target in Python, and its environment."""
    if not PYTHON.exists():
        raise FuzzError("there is no .venv: run contrib/setup")
    if not (_SITE / "atheris").is_dir():
        _say(f"installing {_ATHERIS} in {_SITE.relative_to(CHECKOUT)}")
        install: list[str | Path] = [
            PYTHON,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ]
        _run([*install, "--upgrade", "--target", _SITE, _ATHERIS], CACHE / "pip.log")
    paths = os.pathsep.join(map(str, (CHECKOUT / "contrib", _SITE)))
    # No byte code beside the sources.
    environment = {"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
    return [str(PYTHON), str(CHECKOUT / "contrib/fuzzing/engine.py"), target], environment


def native(target: str) -> tuple[list[str], dict[str, str]]:
    """Return the same for a target in C, which is built here."""
    clang = shutil.which("clang") or shutil.which("clang-14") or _installed_clang()
    program = CACHE / target
    _run([clang, "-fsanitize=fuzzer", *native_build(target, program)], CACHE / "clang.log")
    return [str(program)], {
        "ASAN_OPTIONS": "detect_leaks=1:handle_abort=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }


def native_build(target: str, program: Path) -> list[str]:
    """Return what a compiler is told that makes a target in C, without its main(), a program."""
    sources = [CHECKOUT / "contrib" / "fuzzing" / f"{target}.c", *sorted(_SOURCES.glob("*.c"))]
    sources.append(CHECKOUT / "tests" / "support" / "fake_librbd.c")
    wrapped = "-Wl,--wrap=rbd_aio_read,--wrap=rbd_aio_write"
    flags = ["-std=gnu11", "-O1", "-g", "-pthread", f"-I{_SOURCES}", wrapped]
    return [*_SANITIZED, *flags, *map(str, sources), "-o", str(program)]


def _installed_clang() -> str:
    command = ["apt-get", "install", "-y", "--no-install-recommends", *_CLANG]
    if os.geteuid() != 0:
        raise FuzzError(f"clang is missing; as root, run: {' '.join(command)}")
    _say(f"installing {' '.join(_CLANG)}")
    log = CACHE / "apt.log"
    _run(["apt-get", "update"], log)
    _run(command, log, {"DEBIAN_FRONTEND": "noninteractive"})
    return shutil.which("clang") or shutil.which("clang-14") or "clang"


def _say(what: str) -> None:
    print(f"contrib/fuzz: {what}", flush=True)


def _run(
    command: Sequence[str | Path], log: Path, environment: dict[str, str] | None = None
) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | (environment or {}),
        )
    if done.returncode != 0:
        tail = log.read_text(errors="replace")[-2000:]
        raise FuzzError(f"{command[0]} failed; the whole log is {log}\n{tail}")
