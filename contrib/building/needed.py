"""What an installation needs that no package index has, told in one line instead of a compiler's.

Imports nothing but the standard library: it runs before anything is installed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

BINDINGS = ("rados", "rbd")
# The build's own environment hides the one that it is for; without PYTHONPATH it is there again.
_PROBE = """
import importlib.metadata, importlib.util, sys
print(*[name for name in sys.argv[1:] if not importlib.util.find_spec(name)])
try:
    # As pyproject.toml wants it.
    found = tuple(map(int, importlib.metadata.version("pyfuse3").split(".")[:2])) >= (3, 5)
except (importlib.metadata.PackageNotFoundError, ValueError):
    found = False
print("pyfuse3" * found)
"""


def _look() -> tuple[list[str], bool]:
    """Return which bindings there are not, and whether pyfuse3 is there, where it is to be put."""
    command = [sys.executable, "-I", "-c", _PROBE, *BINDINGS]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    absent, pyfuse3 = done.stdout.splitlines()
    return absent.split(), bool(pyfuse3)


def _for_compiling() -> list[str]:
    """Return the Debian packages that are missing for pyfuse3 to be compiled."""
    missing = []
    if shutil.which("gcc") is None and shutil.which("cc") is None:
        missing.append("gcc")
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        missing.append("python3-dev")
    pkg_config = shutil.which("pkg-config")
    if pkg_config is None:
        return [*missing, "pkg-config", "libfuse3-dev"]
    if subprocess.run([pkg_config, "--exists", "fuse3"], check=False).returncode:
        missing.append("libfuse3-dev")
    return missing


def refusal() -> str | None:
    """Return in one line why rbdfs could not run where it is about to be installed, if so."""
    absent, pyfuse3 = _look()
    if absent:
        packages = " and ".join(f"python3-{name}" for name in absent)
        return (
            f"rbdfs: {sys.executable} has no {' and '.join(absent)}: install {packages}, which"
            " belong to /usr/bin/python3, and to its venvs with --system-site-packages"
        )
    if not pyfuse3 and (missing := _for_compiling()):
        return f"rbdfs: pyfuse3 is to be compiled: apt-get install {' '.join(missing)}"
    return None


if __name__ == "__main__":
    sys.exit(refusal())
