"""The inode table: numbers, lookup counts, open files."""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from rbdfs.model import inode_table
from rbdfs.model.entry import Entry, Key
from rbdfs.model.inode_table import ROOT_INODE, InodeTable, stable_number
from rbdfs.model.relocation import Relocation

ROOT = Entry(Key(1, ""), pool="rbd")


def image(number: int) -> Entry:
    return Entry(Key(1, "", f"id{number}"), pool="rbd", image=f"vm{number}", size=4096)


def is_known(table: InodeTable, number: int) -> bool:
    try:
        table.entry(number)
    except OSError as exc:
        return exc.errno != errno.ESTALE
    return True


def test_the_root_is_inode_1_and_stays() -> None:
    table = InodeTable(ROOT)
    assert table.number(ROOT.key) == table.remember(ROOT) == ROOT_INODE == 1
    table.forget(ROOT_INODE, 100)
    table.opened(ROOT_INODE, ROOT)
    table.released(ROOT_INODE)
    assert table.entry(ROOT_INODE) == ROOT
    assert len(table) == 1


def test_an_unknown_number_is_stale() -> None:
    with pytest.raises(OSError, match="inode 77 is not known") as caught:
        InodeTable(ROOT).entry(77)
    assert caught.value.errno == errno.ESTALE


def test_a_number_is_the_same_in_every_process() -> None:
    """Whatever PYTHONHASHSEED is, and after an upgrade too: NFS clients keep them."""
    key = Key(1, "", "10226b8b4567")
    assert stable_number(key) == 7336253700509656238
    assert InodeTable(ROOT).number(key) == 7336253700509656238


@pytest.mark.parametrize(
    "key",
    [
        Key(2, "", "id1"),
        Key(1, None, "id1"),
        Key(1, "ns", "id1"),
        Key(1, "", "/id1"),
        Key(1, "", "id1", 4),
        Key(1, "", "id1", 0, 4),
        Key(1, ""),
        Key(1, None),
        Key(-1),
        Key(1, "\udcff"),
    ],
)
def test_every_part_of_a_key_counts(key: Key) -> None:
    number = stable_number(key)
    assert number != stable_number(Key(1, "", "id1"))
    assert ROOT_INODE < number < 2**63


def test_forget_takes_back_as_many_lookups_as_it_says() -> None:
    table = InodeTable(ROOT)
    number = table.remember(image(1))
    assert table.remember(image(1)) == number
    assert table.remember(image(1)) == number
    table.forget(number, 2)
    assert is_known(table, number)
    table.forget(number, 1)
    assert not is_known(table, number)
    assert len(table) == 1


def test_forget_of_the_unknown_and_of_too_many_is_harmless() -> None:
    """FORGET has no reply that could carry an error."""
    table = InodeTable(ROOT)
    number = table.remember(image(1))
    table.forget(number + 1, 1)
    table.forget(number, 50)
    table.forget(number, 1)
    assert not is_known(table, number)
    table.remember(image(1))
    assert is_known(table, number), "too many forgets are no debt"


def test_an_open_file_keeps_its_inode() -> None:
    table = InodeTable(ROOT)
    number = table.remember(image(1))
    table.opened(number, image(1))
    table.opened(number, image(1))
    table.forget(number, 1)
    assert is_known(table, number)
    table.released(number)
    assert is_known(table, number)
    table.released(number)
    assert not is_known(table, number)


def test_a_file_may_be_opened_by_an_inode_that_was_just_forgotten() -> None:
    table = InodeTable(ROOT)
    number = table.remember(image(1))
    table.forget(number, 1)
    table.opened(number, image(1))
    assert table.entry(number) == image(1)
    assert table.number(image(1).key) == number
    table.released(number)
    assert not is_known(table, number)


def test_release_does_not_drop_what_the_kernel_still_knows() -> None:
    table = InodeTable(ROOT)
    number = table.remember(image(1))
    table.opened(number, image(1))
    table.released(number)
    assert is_known(table, number)


def test_a_number_comes_back_after_it_was_forgotten() -> None:
    table = InodeTable(ROOT)
    number = table.remember(image(1))
    table.forget(number, 1)
    assert table.number(image(1).key) == number
    assert table.remember(image(1)) == number


def test_refresh_keeps_the_newest_state_and_counts_nothing() -> None:
    table = InodeTable(ROOT)
    number = table.remember(image(1))
    renamed = replace(image(1), image="other", size=8192)
    assert table.refresh(renamed) == number
    assert table.entry(number) == renamed
    table.forget(number, 1)
    assert table.refresh(renamed) == number
    assert not is_known(table, number), "refresh makes nothing known"


def test_a_remade_image_has_another_inode() -> None:
    table = InodeTable(ROOT)
    old = table.remember(image(1))
    remade = replace(image(1), key=image(2).key)
    assert table.remember(remade) != old
    assert table.entry(old) == image(1)


def test_an_image_that_has_moved_keeps_its_number_while_it_is_known() -> None:
    table, old = InodeTable(Entry(Key(1))), image(1)
    new = replace(old, key=Key(2, "", "new"), pool="other")
    snap = replace(old, key=old.key._replace(snap_id=4), snap="s")
    lost = replace(old, key=old.key._replace(snap_id=5), snap="t")
    numbers = [table.remember(entry) for entry in (old, snap, lost)]
    table.relocate(Relocation(old.key, new, {4: 7}))
    moved = replace(snap, key=new.key._replace(snap_id=7), pool="other")
    assert [table.entry(number).key for number in numbers] == [new.key, moved.key, lost.key]
    assert [table.number(entry.key) for entry in (new, moved, lost)] == numbers
    assert table.remember(new) == numbers[0]
    table.forget(numbers[0], 2)
    assert table.number(new.key) == stable_number(new.key) != numbers[0]
    assert table.number(old.key) == stable_number(old.key)


def test_keys_of_the_same_number_get_different_inodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inode_table, "stable_number", lambda _key, taken=10: taken + 1)
    table = InodeTable(ROOT)
    numbers = [table.remember(image(index)) for index in range(3)]
    assert numbers == [11, 12, 13]
    table.forget(11, 1)
    assert table.number(image(1).key) == 12, "a number stays while the kernel knows it"
    assert table.remember(image(3)) == 11
    assert [table.entry(number) for number in (11, 12, 13)] == [image(3), image(1), image(2)]


Step = tuple[str, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["remember", "forget 1", "forget 2", "opened", "released", "refresh"]),
        st.integers(0, 3),
    )
)


@given(STEPS)
def test_as_a_simple_count_would_have_it(steps: list[Step]) -> None:
    table = InodeTable(ROOT)
    lookups, opens = [0] * 4, [0] * 4

    def known(index: int) -> bool:
        return lookups[index] > 0 or opens[index] > 0

    def step(action: str, index: int) -> None:
        number = table.number(image(index).key)
        if action == "remember":
            table.remember(image(index))
            lookups[index] += 1
        elif action.startswith("forget"):
            count = int(action[-1])
            table.forget(number, count)
            lookups[index] = max(0, lookups[index] - count)
        elif action == "opened" and known(index):
            table.opened(number, image(index))
            opens[index] += 1
        elif action == "released" and opens[index]:
            table.released(number)
            opens[index] -= 1
        elif action == "refresh":
            table.refresh(image(index))

    for action, index in steps:
        step(action, index)
        numbers = [table.number(image(each).key) for each in range(4)]
        assert [is_known(table, number) for number in numbers] == [known(i) for i in range(4)]
        assert len(table) == 1 + sum(known(i) for i in range(4))


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[Entry]:
    """The entries whose image was asked for."""
    asked: list[Entry] = []

    def counted(name: str) -> property:
        asked_for = getattr(Entry, name).fget

        def tell(entry: Entry) -> Key:
            asked.append(entry)
            return cast("Key", asked_for(entry))

        return property(tell)

    for name in ("whole_key", "image_key"):
        monkeypatch.setattr(Entry, name, counted(name))
    return asked


def test_what_is_asked_of_one_image_looks_at_no_other(looked_at: list[Entry]) -> None:
    """Each SEEK_DATA asks for an image's inodes, and a kernel knows a quarter of a million."""
    table = InodeTable(ROOT)
    numbers = [table.remember(image(number)) for number in range(1000)]
    looked_at.clear()
    assert list(table.numbers_of(image(7).key)) == [numbers[7]]
    table.rename(image(7).key, "other")
    table.relocate(Relocation(image(7).key, image(2000), {}))
    assert list(table.numbers_of(image(2000).key)) == [numbers[7]]
    assert len(looked_at) < 10


KEYS = st.builds(
    Key,
    st.integers(1, 2),
    st.just(""),
    st.sampled_from(["id0", "id1"]),
    st.integers(0, 2),
    st.integers(0, 1),
)


class Images(RuleBasedStateMachine):
    """The inodes of images, by their table and by a look at each of them."""

    def __init__(self) -> None:
        super().__init__()
        self.table = InodeTable(ROOT)
        self.numbers: set[int] = set()

    def known(self) -> dict[int, Entry]:
        return {each: self.table.entry(each) for each in self.numbers if each in self.table}

    @rule(key=KEYS)
    def remember(self, key: Key) -> None:
        self.numbers.add(self.table.remember(Entry(key)))

    @rule(key=KEYS, number=st.integers(2, 5) | st.none())
    def restore(self, key: Key, number: int | None) -> None:
        self.table.restore(Entry(key), number)
        self.numbers.add(self.table.number(key))

    @rule(key=KEYS)
    def refresh(self, key: Key) -> None:
        self.table.refresh(Entry(key, image="seen"))

    @rule(key=KEYS)
    def forget(self, key: Key) -> None:
        self.table.forget(self.table.number(key), 1)

    @rule(key=KEYS)
    def open_and_release(self, key: Key) -> None:
        number = self.table.number(key)
        self.table.opened(number, Entry(key))
        self.table.released(number)

    @rule(key=KEYS)
    def opened(self, key: Key) -> None:
        number = self.table.number(key)
        self.table.opened(number, Entry(key))
        self.numbers.add(number)

    @rule(key=KEYS)
    def rename(self, key: Key) -> None:
        which, before = Entry(key).image_key, self.known()
        self.table.rename(which, "renamed")
        assert self.known() == {
            number: replace(entry, image="renamed") if entry.image_key == which else entry
            for number, entry in before.items()
        }

    @rule(source=KEYS, there=KEYS, snap_ids=st.dictionaries(*[st.integers(1, 2)] * 2))
    def relocate(self, source: Key, there: Key, snap_ids: dict[int, int]) -> None:
        where = Entry(Entry(there).image_key, image="moved")
        relocation = Relocation(Entry(source).image_key, where, snap_ids)
        before = self.known()
        self.table.relocate(relocation)
        after = self.known()
        assert after.keys() == before.keys()
        for number, entry in before.items():
            try:
                assert after[number] == relocation.follow(entry)
            except OSError:
                assert after[number] == entry

    @invariant()
    def the_inodes_of_each_are_known(self) -> None:
        found: dict[Key, list[int]] = {}
        for number, entry in self.known().items():
            found.setdefault(entry.whole_key, []).append(number)
        wholes = {
            Key(pool, "", image_id, snap_id)
            for pool in (1, 2)
            for image_id in ("id0", "id1")
            for snap_id in range(3)
        }
        for whole in wholes:
            assert sorted(self.table.numbers_of(whole)) == sorted(found.get(whole, []))


TestImages = Images.TestCase
