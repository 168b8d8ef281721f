"""The command line of contrib/fuzz."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from fuzzing import tools
from fuzzing.targets import ALL, CORPORA, LARGEST_BYTES, NATIVE
from fuzzing.tools import CACHE, FuzzError

if TYPE_CHECKING:
    from collections.abc import Sequence

FOUND, NOT_RUN = 1, 3
# Of one input: it is a finding if it takes longer, in seconds, or more memory.
_LONGEST_S = 10
_MOST_MIB = 1024
_SHOWN_LINES = 30
_DONE = re.compile(r"^#(\d+)\s+DONE\s+cov: (\d+) .*corp: (\d+)/", re.MULTILINE)
_BOUNDS = (f"-max_len={LARGEST_BYTES}", f"-timeout={_LONGEST_S}", f"-rss_limit_mb={_MOST_MIB}")


def _seconds(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 86400:
        raise argparse.ArgumentTypeError(f"not a number of seconds: {text}")
    return int(text)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="contrib/fuzz",
        description="Fuzz what decodes bytes that somebody else wrote, one target after the other. "
        "What breaks a promise is a finding: its input is kept, and its path printed.",
        epilog=f"Targets: {', '.join(ALL)}. Exit code: 0, 1 for findings, 2 for a wrong command "
        "line, 3 where it could not be run.",
    )
    top.add_argument("targets", nargs="*", metavar="TARGET", help="default: all")
    top.add_argument(
        "--seconds", type=_seconds, default=60, metavar="N", help="for each target; default: 60"
    )
    group = top.add_mutually_exclusive_group()
    group.add_argument(
        "--input", type=Path, metavar="FILE", help="give the target this one input, and no other"
    )
    group.add_argument(
        "--keep",
        action="store_true",
        help="fuzz nothing: add to the corpora what was found that reaches more, and drop what "
        "reaches nothing of its own",
    )
    return top


class Target:
    """One target, with the directories of its inputs.

    Attributes:
        kept: its corpus in the checkout.
        grown: all that was found to reach more; it is of this machine.
        findings: inputs that have broken a promise.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.kept = CORPORA / name
        self.grown = CACHE / "corpora" / name
        self.findings = CACHE / "findings" / name
        for directory in (self.kept, self.grown, self.findings):
            directory.mkdir(parents=True, exist_ok=True)
        self._command, environment = (tools.native if name in NATIVE else tools.engine)(name)
        self._environment = os.environ | environment

    def run(self, *arguments: str | Path) -> tuple[int, str]:
        """Run libFuzzer in the target; return its exit code and what it has said."""
        command = [*self._command, *_BOUNDS, f"-artifact_prefix={self.findings}/", *arguments]
        done = subprocess.run(
            command,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        return done.returncode, done.stdout

    def fuzz(self, seconds: int) -> bool:
        """Fuzz it; print what was found, and return whether there was anything."""
        code, said = self.run(f"-max_total_time={seconds}", self.grown, self.kept)
        (self.findings / "log").write_text(said)
        done = _DONE.search(said)
        if code == 0 and done is not None:
            print(f"{self.name}: {done[1]} runs, {done[2]} edges, {done[3]} inputs", flush=True)
            return False
        print(f"{self.name}: FOUND")
        self._show(said)
        return True

    def give(self, path: Path) -> bool:
        """Give it one input; print what comes of it, and return whether that is a finding."""
        code, said = self.run(path)
        print(f"{self.name}: {'FOUND' if code else 'nothing'}")
        if code:
            self._show(said)
        return code != 0

    def keep(self) -> None:
        """Renew the corpus: seeds, which were made by hand, and what reaches more than they do."""
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            fewest = Path(scratch, self.name)
            fewest.mkdir()
            for seed in self.kept.glob("seed-*"):
                shutil.copy(seed, fewest)
            # By edges alone: how often each is taken would keep hundreds.
            code, said = self.run("-merge=1", "-use_counters=0", fewest, self.kept, self.grown)
            if code:
                raise FuzzError(f"{self.name}: the merge failed\n{said[-2000:]}")
            before = {path.name for path in self.kept.iterdir()}
            after = {path.name for path in fewest.iterdir()}
            for name in before - after:
                (self.kept / name).unlink()
            for name in after - before:
                shutil.copy(fewest / name, self.kept)
        print(f"{self.name}: {len(after)} inputs, {len(after - before)} of them new", flush=True)

    def _show(self, said: str) -> None:
        """Print where the input is, after the end of what libFuzzer has said of it."""
        lines = [line for line in said.splitlines() if not line.startswith(("#", "stat:"))]
        print("\n".join(f"    {line}" for line in lines[-_SHOWN_LINES:]))
        written = re.findall(r"Test unit written to (\S+)", said)
        for path in written:
            print(f"    again: contrib/fuzz {self.name} --input {path}")
        sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    top = parser()
    parsed = top.parse_args(arguments)
    names = parsed.targets or ALL
    unknown = set(names) - set(ALL)
    if unknown:
        top.error(f"no targets: {', '.join(sorted(unknown))}")
    if parsed.input is not None and len(parsed.targets) != 1:
        top.error("--input takes one TARGET")
    try:
        return _run(names, parsed)
    except FuzzError as exc:
        print(f"contrib/fuzz: {exc}", file=sys.stderr)
        return NOT_RUN
    except KeyboardInterrupt:
        return NOT_RUN


def _run(names: Sequence[str], parsed: argparse.Namespace) -> int:
    found = False
    for name in names:
        target = Target(name)
        if parsed.keep:
            target.keep()
        elif parsed.input is not None:
            found = target.give(parsed.input)
        else:
            found = target.fuzz(parsed.seconds) or found
    return FOUND if found else 0
