"""Which versions of what a mount runs on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from typing import Any

from rbdfs.commands.processes import read

_PACKAGES = ("librbd1", "librados2", "libfuse3-3", "libfuse3-4", "python3-rbd", "rbdfs")
_DPKG_S = 5.0


def versions(servers: list[int]) -> dict[str, Any]:
    """Return them; of the libraries, those that the *servers* have loaded, too."""
    system = re.search(r'^PRETTY_NAME="?([^"\n]*)', read("/etc/os-release"), re.MULTILINE)
    loaded = {
        os.path.basename(line.split()[-1])
        for pid in servers
        for line in read(f"/proc/{pid}/maps").splitlines()
        if re.search(r"/lib(rbd|rados|fuse3)\.so", line)
    }
    return {
        "rbdfs": _installed("rbdfs"),
        "python": platform.python_version(),
        "pyfuse3": _installed("pyfuse3"),
        "trio": _installed("trio"),
        "kernel": platform.release(),
        "system": system[1] if system else "",
        "packages": _packages(),
        "loaded": sorted(loaded),
    }


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _packages() -> dict[str, str]:
    query = ["dpkg-query", "-W", "-f=${Package} ${Version}\n", *_PACKAGES]
    try:
        # Of what is not installed it complains, and tells of the others.
        done = subprocess.run(query, capture_output=True, text=True, timeout=_DPKG_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    pairs = (line.partition(" ") for line in done.stdout.splitlines())
    return {name: version for name, _, version in pairs if version}
