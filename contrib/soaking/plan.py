"""A plan, drawn from a seed: the same seed and settings give the same plan."""

from __future__ import annotations

import random
from dataclasses import dataclass

from soaking.disk_stories import DiskStories
from soaking.disks import Disk
from soaking.faults import HARMLESS, LONGEST_STOP_S
from soaking.operations import Fault, Operation, Plan, Script
from soaking.stories import Stories

# 2 MiB in objects of 64 KiB; the second one has a partition, from 512 KiB on.
DISKS = (
    Disk("a/disk0", 1, 0, 512),
    Disk("b/disk1", 2, 128, 256, "b/disk1-part1"),
)
DISK_BYTES = 2 << 20
OBJECT_SIZE = "64K"
# More than a user comes to in an episode.
OPERATIONS = 400
# How much likelier than others a kind is drawn: most of what is hard lies in a take-over.
WEIGHTS = {"kill": 4, "restart": 2}
SHORTEST_S, LONGEST_S = 4.0, 12.0
# Of the first mount, the usual ones more often. With datapath=python there are no discards.
OPTIONS: tuple[tuple[str, ...], ...] = ((), (), (), ("direct_io",))


@dataclass(frozen=True)
class Settings:
    """What is drawn from.

    Attributes:
        faults: the kinds that may befall the mount.
        users: how many there are.
        parts: what they do: ``documents``, ``disks``, or both.
        without: stories that are not drawn.
    """

    faults: tuple[str, ...]
    users: int
    parts: tuple[str, ...] = ("documents", "disks")
    without: tuple[str, ...] = ()


def draw(seed: int, settings: Settings) -> Plan:
    """The plan of one episode."""
    source = random.Random(seed)
    seconds = source.uniform(SHORTEST_S, LONGEST_S)
    faults = _faults(source, settings.faults, seconds)
    # A page that cannot be had is a signal; after some faults many of them.
    mapping = all(fault.kind in HARMLESS for fault in faults)
    roles = _roles(source, settings)
    writers = [user for user, (role, mount) in enumerate(roles) if (role, mount) == ("disks", 0)]
    scripts = []
    for user, (role, mount) in enumerate(roles):
        private = random.Random(source.randrange(1 << 32))
        operations: list[Operation]
        if role == "documents":
            documents = Stories(private, user, mapping=mapping, without=settings.without)
            operations = documents.draw(OPERATIONS)
        else:
            stories = DiskStories(private, user, DISKS, writers, mapping=mapping and mount == 0)
            operations = stories.draw(OPERATIONS)
        scripts.append(Script(user, mount, tuple(operations)))
    options = source.choice(OPTIONS)
    return Plan(seed, tuple(scripts), faults, seconds, options)


def _roles(source: random.Random, settings: Settings) -> list[tuple[str, int]]:
    """What each user does, and on which mount: the faults befall mount 0."""
    usual = [("documents", 0), ("disks", 0), ("documents", 0), ("disks", 1), ("documents", 1)]
    possible = [each for each in usual if each[0] in settings.parts]
    roles = possible[: settings.users]
    while len(roles) < settings.users:
        roles.append(source.choice(possible))
    return roles


def _faults(source: random.Random, kinds: tuple[str, ...], seconds: float) -> tuple[Fault, ...]:
    """None at all in one episode of four; otherwise one after the other, as long as it lasts."""
    if not kinds or source.random() < 0.25:
        return ()
    # Few kinds in one episode show what belongs together; all in one would excuse everything.
    counts = [WEIGHTS.get(kind, 1) for kind in kinds]
    chosen = source.sample(kinds, min(len(kinds), source.choice([1, 1, 2])), counts=counts)
    # One after the other befalls the successor while it takes over.
    longest_pause = source.choice([0.8, 3.0])
    faults: list[Fault] = []
    left = seconds
    while True:
        delay = source.uniform(0.1, longest_pause)
        left -= delay
        if left < 0:
            return tuple(faults)
        kind = source.choice(chosen)
        lasting = source.uniform(1.0, LONGEST_STOP_S) if kind in ("osd", "mon") else 0.0
        faults.append(Fault(kind, round(delay, 2), round(lasting, 2)))
        left -= lasting
