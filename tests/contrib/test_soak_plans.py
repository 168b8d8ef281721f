"""Plans of contrib/soak: drawn from a seed, and shortened to what shows a finding."""

from __future__ import annotations

import pytest
from soaking.faults import KINDS
from soaking.operations import Event, Fault, Finding, History, Operation, Plan, Script
from soaking.plan import Settings, draw
from soaking.shrinker import Shrinker, as_played

ALL = Settings(faults=KINDS, users=5)


def test_a_seed_draws_its_plan_again() -> None:
    assert draw(7, ALL) == draw(7, ALL)
    assert draw(7, ALL) != draw(8, ALL)


def test_every_fault_and_every_story_is_drawn() -> None:
    plans = [draw(seed, ALL) for seed in range(120)]
    assert {fault.kind for plan in plans for fault in plan.faults} == set(KINDS)
    assert any(not plan.faults for plan in plans)
    stories = {
        each.story for plan in plans for script in plan.scripts for each in script.operations
    }
    assert {"shell", "editor", "growing", "moved", "cloned", "outside", "disk"} <= stories


def test_what_is_not_wanted_is_not_drawn() -> None:
    settings = Settings(faults=(), users=2, parts=("documents",), without=("shell",))
    plans = [draw(seed, settings) for seed in range(5)]
    assert not any(plan.faults for plan in plans)
    assert {len(plan.scripts) for plan in plans} == {2}
    stories = {
        each.story for plan in plans for script in plan.scripts for each in script.operations
    }
    assert not {"shell", "disk"} & stories


def operation(name: str, story: str = "story") -> Operation:
    return Operation("stat", {"path": f"a/{name}"}, story)


@pytest.mark.parametrize("needs_fault", [False, True])
def test_what_does_not_matter_is_taken_out(needs_fault: bool) -> None:
    """The finding needs two operations of one user, far from each other."""
    many = [operation(f"n{number}", f"story {number // 3}") for number in range(40)]
    many[3], many[30] = operation("make", "story 1"), operation("break", "story 10")
    others = tuple(operation("other") for _ in range(20))
    faults = (Fault("restart", 1.0), Fault("kill", 1.0), Fault("osd", 1.0, 2.0))
    plan = Plan(1, (Script(0, 0, others), Script(1, 0, tuple(many))), faults, 5.0)
    finding = Finding("broken", "it is", "story 10", "stat", 1, 30)

    def play(played: Plan) -> tuple[list[Finding], History]:
        names = [each.args["path"] for script in played.scripts for each in script.operations]
        killed = any(fault.kind == "kill" for fault in played.faults)
        shows = {"a/make", "a/break"} <= set(names) and (killed or not needs_fault)
        return ([finding] if shows else [Finding("another", "one")]), History()

    shrinker = Shrinker(plan, finding, play, budget_s=60)
    shrinker.shrink()
    assert shrinker.plan.scripts == (Script(1, 0, (many[3], many[30])),)
    assert [fault.kind for fault in shrinker.plan.faults] == ["kill"] * needs_fault
    assert shrinker.shown == (1, 1)


def test_a_finding_that_does_not_show_again() -> None:
    plan = Plan(1, (Script(0, 0, (operation("a"),)),), (), 5.0)
    shrinker = Shrinker(plan, Finding("broken", ""), lambda _: ([], History()), budget_s=60)
    shrinker.shrink()
    assert (shrinker.plan, shrinker.shown) == (plan, (0, 0))


def test_what_nobody_came_to_is_left_out() -> None:
    operations = (operation("a"), operation("b"), operation("c"))
    plan = Plan(1, (Script(0, 0, operations), Script(1, 0, operations)), (), 5.0)
    history = History([Event(0, 0, 1, operations[1], 1.0, 2.0)])
    assert as_played(plan, history).scripts == (Script(0, 0, operations[:2]),)
