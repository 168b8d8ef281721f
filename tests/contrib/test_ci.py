""".ci/tests: a failure that does not come again is forgiven, and nothing else is."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
CONFTEST = "from tests.conftest import pytest_sessionfinish, pytest_testnodedown\n"
# As contrib/test, without what takes long.
TEST = """#!/bin/sh
{first}
PYTHONPATH={checkout} exec .venv/bin/pytest -c /dev/null --rootdir . --max-worker-restart 0 "$@"
"""
# What a test does when it runs for the first time; the second time it passes.
ONCE = """
import os
from pathlib import Path
def once(name):
    try:
        Path(name).touch(exist_ok=False)
        return True
    except FileExistsError:
        return False
"""


def tried(directory: Path, tests: str, first: str = "") -> subprocess.CompletedProcess[str]:
    """Have .ci/tests try these in an empty directory, after what contrib/test does `first`."""
    (directory / ".ci").mkdir()
    shutil.copy(CHECKOUT / ".ci" / "tests", directory / ".ci")
    (directory / ".venv").symlink_to(CHECKOUT / ".venv")
    (directory / "contrib").mkdir()
    script = directory / "contrib" / "test"
    script.write_text(TEST.format(checkout=CHECKOUT, first=first))
    script.chmod(0o755)
    (directory / "conftest.py").write_text(CONFTEST)
    (directory / "test_it.py").write_text(ONCE + tests)
    return subprocess.run(
        [directory / ".ci" / "tests"], capture_output=True, text=True, timeout=120
    )


def failing_once(count: int) -> str:
    return "".join(f"def test_{i}(): assert not once('{i}')\n" for i in range(count))


def test_a_failure_that_does_not_come_again_is_named(tmp_path: Path) -> None:
    done = tried(tmp_path, failing_once(3))
    assert done.returncode == 0, done.stdout
    unsteady = [line for line in done.stdout.splitlines() if line.startswith("UNSTEADY")]
    assert sorted(line.rpartition("::")[2] for line in unsteady) == ["test_0", "test_1", "test_2"]


@pytest.mark.parametrize(
    ("tests", "code"),
    [
        ("def test_it(): assert 0", 1),
        (failing_once(4), 1),
        ("import nothing_of_this_name", 2),
        ("", 5),
    ],
    ids=["it comes again", "too many", "no module", "no test"],
)
def test_what_is_not_forgiven(tmp_path: Path, tests: str, code: int) -> None:
    assert tried(tmp_path, tests).returncode == code


def test_a_run_that_a_worker_has_ended(tmp_path: Path) -> None:
    """What comes after the test that kills it was not run at all."""
    dies = "def test_0():\n    if once('0'): os._exit(1)\n"
    after = "".join(f"def test_{i}(): assert 0\n" for i in range(1, 9))
    done = tried(tmp_path, dies + after)
    assert done.returncode == 2, done.stdout


def test_failures_of_a_run_before(tmp_path: Path) -> None:
    """They say nothing of this one, which has come to no test."""
    cache = tmp_path / ".pytest_cache" / "v" / "cache"
    cache.mkdir(parents=True)
    (cache / "lastfailed").write_text(json.dumps({"test_it.py::test_it": True}))
    done = tried(tmp_path, "def test_it(): pass", first="mkdir first 2>/dev/null && exit 1")
    assert done.returncode != 0, done.stdout
