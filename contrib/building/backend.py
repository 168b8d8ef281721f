"""setuptools as pyproject.toml has it called, after a look at what it could not build or run with.

Whoever installs asks for the metadata first, before anything is compiled. Who only makes a wheel
does not (`python -m build`), and may do so elsewhere. `pip install --no-deps` leaves to others what
rbdfs needs, as packaging does, and pipx when it asks for the name in an environment for once.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import needed
from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403


def _without_dependencies():
    # pip tells a backend nothing of this, and is its parent.
    arguments = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().split(b"\0")
    return not {b"--no-deps", b"--no-dependencies"}.isdisjoint(arguments)


def _metadata(make):
    def check_and_make(directory, config_settings=None):
        if not _without_dependencies() and (reason := needed.refusal()):
            sys.exit(reason)
        return make(directory, config_settings)

    return check_and_make


prepare_metadata_for_build_wheel = _metadata(build_meta.prepare_metadata_for_build_wheel)
prepare_metadata_for_build_editable = _metadata(build_meta.prepare_metadata_for_build_editable)
