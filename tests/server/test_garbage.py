"""What outlives a collection is not looked at by the next, and cycles do go in the end."""

from __future__ import annotations

import gc
import weakref

from rbdfs.server.garbage import collected_in_parts


class Node:
    """Refers to itself, unless it stands alone."""

    def __init__(self, *, cyclic: bool) -> None:
        self.other = self if cyclic else None


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_is_kept_is_set_aside() -> None:
    with collected_in_parts(Clock()):
        kept = [Node(cyclic=False) for _ in range(100_000)]
        gc.collect()
        assert gc.get_freeze_count() > len(kept)
        assert not any(gc.get_objects(generation) for generation in (1, 2))
        # Its reference count frees it still.
        last = weakref.ref(kept[-1])
        del kept
        assert last() is None
    assert gc.get_freeze_count() == 0


def test_new_cycles_go_at_once_and_old_ones_in_the_end() -> None:
    clock = Clock()
    with collected_in_parts(clock):
        old = Node(cyclic=True)
        gc.collect()
        new = Node(cyclic=True)
        seen = [weakref.ref(node) for node in (old, new)]
        del old, new
        gc.collect()
        assert [node() is None for node in seen] == [False, True]
        clock.now += 601.0
        gc.collect()
        assert [node() is None for node in seen] == [True, True]
        # What was looked at is set aside again.
        assert gc.get_freeze_count() > 0
