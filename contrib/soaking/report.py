"""What a run prints, and what it leaves behind for those who look into a finding."""

from __future__ import annotations

import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from soaking.operations import Finding, History, Plan

# A line of a history is for a person.
LINE = 240


@dataclass
class Report:
    """Counts what was done, and tells of each finding once.

    Attributes:
        logs: the directory of what is left behind.
        again: the command that draws the same plans, without its episode.
    """

    seed: int
    logs: Path
    again: str
    begun: float = field(default_factory=time.monotonic)
    episodes: int = 0
    operations: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    signatures: Counter[tuple[str, str, str]] = field(default_factory=Counter)

    def count(self, history: History) -> None:
        self.episodes += 1
        self.operations += len(history.events)
        self.faults.update(window.kind for window in history.windows)

    def new(self, findings: list[Finding]) -> list[Finding]:
        """Those that were not made before, each once."""
        fresh: dict[tuple[str, str, str], Finding] = {}
        for finding in findings:
            if finding.signature not in self.signatures:
                fresh.setdefault(finding.signature, finding)
        self.signatures.update(finding.signature for finding in findings)
        return list(fresh.values())

    def progress(self, text: str) -> None:
        print(f"{time.strftime('%T')} {text}", file=sys.stderr, flush=True)

    def tell(self, number: int, finding: Finding, logs: Path) -> None:
        """A finding, as soon as it is made."""
        story = f" [{finding.story}]" if finding.story else ""
        print(f"FINDING {finding.check}{story}: {finding.message}")
        print(f"    again: {self.again} --episode {number}")
        print(f"    logs: {logs}", flush=True)

    def tell_shortest(self, plan: Plan, shown: tuple[int, int]) -> None:
        """What is left of a plan."""
        if not shown[1]:
            print("    it did not show again in a shorter plan", flush=True)
            return
        print(f"    shortest history (seen in {shown[0]} of {shown[1]} tries):")
        for line in lines(plan):
            print(f"        {line}"[:LINE])
        sys.stdout.flush()

    def summary(self) -> str:
        minutes = (time.monotonic() - self.begun) / 60
        faults = ", ".join(f"{kind} {count}" for kind, count in sorted(self.faults.items()))
        return (
            f"soak: seed {self.seed}, {minutes:.1f} minutes, {self.episodes} episodes, "
            f"{self.operations} operations, faults: {faults or 'none'}; "
            f"findings {len(self.signatures)}"
        )


def lines(plan: Plan) -> list[str]:
    """A plan, for a person."""
    told = [f"mount 0: -o {','.join(plan.options)}"] if plan.options else []
    told += [f"fault: {fault}" for fault in plan.faults]
    for script in plan.scripts:
        told += [
            f"user {script.user} on mount {script.mount}: {operation}"
            for operation in script.operations
        ]
    return told


def write_history(path: Path, plan: Plan, history: History, findings: list[Finding]) -> None:
    """All that happened, by time."""
    begun = min((event.start for event in history.events), default=0.0)
    told = [
        (event.start, f"{event.start - begun:8.3f} {event.end - begun:8.3f} {event}")
        for event in history.events
    ]
    told += [
        (window.start, f"{window.start - begun:8.3f} {window.end - begun:8.3f} FAULT {window.kind}")
        for window in history.windows
    ]
    with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for finding in findings:
            print(f"FINDING {finding.signature} {finding.message}", file=file)
        print(f"seed {plan.seed}, {plan.seconds:.1f} s, -o {plan.options}", file=file)
        for _, line in sorted(told):
            print(line, file=file)
