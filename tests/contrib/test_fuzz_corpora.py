"""contrib/fuzz: what its corpora have is answered as promised; and what the command says.

To look for more takes atheris and clang, which contrib/fuzz installs when it is run.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from fuzzing import (
    command,
    estates,
    headers,
    listings,
    messages,
    monitors,
    names,
    object_maps,
    partitions,
    requests,
    tools,
)
from fuzzing.targets import ALL, CHECKOUT, CORPORA, LARGEST_BYTES, NATIVE, PYTHON, check_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MOST_INPUTS = 100
CHECKS = {
    module.__name__.removeprefix("fuzzing."): module.check
    for module in (
        *(estates, headers, listings, messages, names, object_maps, partitions),
        *(monitors, requests),
    )
}


def inputs_of(target: str) -> list[Path]:
    return sorted((CORPORA / target).iterdir())


@pytest.fixture
def silent() -> Iterator[None]:
    """What is said of each input is of no interest."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("target", PYTHON)
def test_corpus(silent: None, target: str) -> None:
    check = CHECKS[target]
    assert check is check_of(target)
    for path in inputs_of(target):
        try:
            check(path.read_bytes())
        except Exception as exc:
            raise AssertionError(f"contrib/fuzz {target} --input {path}") from exc


@pytest.mark.parametrize("target", NATIVE)
def test_corpus_in_c(tmp_path: Path, target: str) -> None:
    program, main = tmp_path / target, CHECKOUT / "contrib" / "fuzzing" / "replay.c"
    subprocess.run(["gcc", str(main), *tools.native_build(target, program)], check=True)
    inputs = inputs_of(target)
    # Who may not trace processes cannot look for leaks.
    environment = os.environ | {"ASAN_OPTIONS": "detect_leaks=0"}
    given = subprocess.run(
        [program, *inputs], env=environment, capture_output=True, text=True, timeout=100
    )
    last = given.stdout.splitlines()[-1]
    assert given.returncode == 0, f"contrib/fuzz {target} --input {last}\n{given.stderr}"
    assert given.stdout.splitlines() == [str(path) for path in inputs]


@pytest.mark.parametrize("target", ALL)
def test_corpora_are_small(target: str) -> None:
    inputs = inputs_of(target)
    assert 5 < len(inputs) <= MOST_INPUTS
    assert all(path.stat().st_size <= LARGEST_BYTES for path in inputs)


def test_every_corpus_has_a_target() -> None:
    assert {path.name for path in CORPORA.iterdir()} == set(ALL)


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in place of libFuzzer, and scratch directories."""
    program = tmp_path / "engine.py"
    monkeypatch.setattr(command, "CACHE", tmp_path)
    monkeypatch.setattr(tools, "engine", lambda _: ([sys.executable, str(program)], {}))
    return program


def test_a_finding_is_told_with_its_input(engine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine.write_text("print('IndexError\\nTest unit written to /x/crash-1'); raise SystemExit(77)")
    assert command.main(["names", "headers", "--seconds=1"]) == 1
    said = capsys.readouterr().out
    for target in ("names", "headers"):
        assert f"{target}: FOUND" in said
        assert f"contrib/fuzz {target} --input /x/crash-1" in said
    assert "IndexError" in said


def test_one_that_ends_without_a_word_is_no_success(
    engine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.write_text("")
    assert command.main(["names"]) == 1


def test_nothing_found(engine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine.write_text("print('#9\\tDONE   cov: 5 ft: 7 corp: 3/21b lim: 4')")
    assert command.main(["names"]) == 0
    assert capsys.readouterr().out == "names: 9 runs, 5 edges, 3 inputs\n"


def test_a_target_that_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["nothing"])
    assert ended.value.code == 2
