"""The shortest plan that still shows a finding: users, faults and operations are taken out in turn.

What depends on timing does not show each time: each shorter plan has a few tries.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from soaking.operations import Finding, History, Operation, Plan, Script

    Play = Callable[[Plan], tuple[list[Finding], History]]

TRIES = 2


class Shrinker:
    """Plays shorter and shorter plans until *budget_s* is over.

    Attributes:
        plan: the shortest one so far.
        shown: how often it showed the finding, of how many times that it was played; (0, 0) for
            the plan that was drawn.
    """

    def __init__(self, plan: Plan, finding: Finding, play: Play, budget_s: float) -> None:
        self.plan = plan
        self.shown = (0, 0)
        self._finding = finding
        self._play = play
        self._deadline = time.monotonic() + budget_s

    def shrink(self) -> None:
        """Take out what can be taken out, the largest parts first."""
        for plan in self._without_most():
            if self._try(plan):
                break
        else:
            self._take_out(self._without_a_user)
            self._take_out(self._without_a_fault)
        size = max((len(script.operations) for script in self.plan.scripts), default=0)
        while size > 1 and not self._over:
            size = (size + 1) // 2
            for user in [script.user for script in self.plan.scripts]:
                self._cut(user, size)
        self._take_out(self._without_a_user)
        self._take_out(self._without_a_fault)

    @property
    def _over(self) -> bool:
        return time.monotonic() > self._deadline

    def _try(self, plan: Plan) -> bool:
        """Keep a plan that shows the finding."""
        for count in range(1, TRIES + 1):
            if self._over:
                return False
            findings, _ = self._play(plan)
            if any(each.signature == self._finding.signature for each in findings):
                self.plan, self.shown = plan, (1, count)
                return True
        return False

    def _take_out(self, shorter: Callable[[], Iterator[Plan]]) -> None:
        while any(self._try(plan) for plan in shorter()):
            pass

    def _without_most(self) -> Iterator[Plan]:
        """The user whom it befell alone, up to where it did."""
        user, index = self._finding.user, self._finding.index
        mine = [script for script in self.plan.scripts if script.user == user]
        if not mine:
            return
        operations = mine[0].operations
        cut = operations if index is None else operations[: index + 1]
        tried: list[Plan] = []
        for faults in ((), self.plan.faults):
            for kept in (_last_story(cut), _related(cut), cut):
                script = replace(mine[0], operations=kept)
                plan = replace(self.plan, scripts=(script,), faults=faults)
                if plan not in tried:
                    tried.append(plan)
                    yield plan

    def _without_a_user(self) -> Iterator[Plan]:
        scripts = self.plan.scripts
        for script in scripts if len(scripts) > 1 else ():
            kept = tuple(each for each in scripts if each is not script)
            yield replace(self.plan, scripts=kept)

    def _without_a_fault(self) -> Iterator[Plan]:
        faults = self.plan.faults
        for index in range(len(faults)):
            yield replace(self.plan, faults=faults[:index] + faults[index + 1 :])

    def _cut(self, user: int, size: int) -> None:
        """Take out *size* operations of a user wherever that can be."""
        at = 0
        while not self._over:
            script = next((each for each in self.plan.scripts if each.user == user), None)
            if script is None or at >= len(script.operations):
                return
            kept = script.operations[:at] + script.operations[at + size :]
            if not self._try(self._with(replace(script, operations=kept))):
                at += size

    def _with(self, script: Script) -> Plan:
        scripts = tuple(script if each.user == script.user else each for each in self.plan.scripts)
        return replace(self.plan, scripts=scripts)


def _last_story(operations: tuple[Operation, ...]) -> tuple[Operation, ...]:
    at = len(operations)
    while at and operations[at - 1].story == operations[-1].story:
        at -= 1
    return operations[at:]


def _related(operations: tuple[Operation, ...]) -> tuple[Operation, ...]:
    """Those that have to do with the files of the last one."""
    opened = {each.args["slot"]: _names(each) for each in operations if each.kind == "open"}

    def files(operation: Operation) -> set[str]:
        return _names(operation) | opened.get(operation.args.get("slot", ""), set())

    wanted = files(operations[-1]) if operations else set()
    kept: list[Operation] = []
    for operation in reversed(operations):
        if wanted & files(operation):
            wanted |= files(operation)
            kept.append(operation)
    return tuple(reversed(kept))


def _names(operation: Operation) -> set[str]:
    args = operation.args
    words = [args[key] for key in ("path", "to") if key in args]
    words += [word[1:] for word in args.get("arguments", ()) if word.startswith(":")]
    return {word.partition("@")[0] for word in words}


def as_played(plan: Plan, history: History) -> Plan:
    """The plan without the operations that nobody came to."""
    last: dict[int, int] = {}
    for event in history.events:
        last[event.user] = max(last.get(event.user, 0), event.index)
    for finding in history.findings:
        if finding.user is not None and finding.index is not None:
            last[finding.user] = max(last.get(finding.user, 0), finding.index)
    scripts = tuple(
        replace(script, operations=script.operations[: last.get(script.user, -1) + 1])
        for script in plan.scripts
    )
    return replace(plan, scripts=tuple(script for script in scripts if script.operations))
