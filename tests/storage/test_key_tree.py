"""The tree of keys, against a dictionary, and against somebody who kept every node."""

from collections import Counter
from collections.abc import Iterable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from pytest import raises

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.storage.key_tree import (
    FANOUT,
    LEVELS,
    SLOTS,
    Cache,
    KeyReader,
    KeysDamaged,
    KeyWriter,
    node_level,
)
from cbfs_common.primitives import KEY_SIZE


class Memory:
    """Nodes, and every version of them that ever was."""

    def __init__(self) -> None:
        self.nodes: dict[bytes, bytes] = {}
        self.ever: dict[bytes, list[bytes]] = {}

    def get_node(self, name: bytes) -> bytes | None:
        return self.nodes.get(name)

    def put_node(self, name: bytes, sealed: bytes) -> None:
        self.nodes[name] = sealed
        self.ever.setdefault(name, []).append(sealed)

    def delete_node(self, name: bytes) -> None:
        self.nodes.pop(name, None)


class Machine(RuleBasedStateMachine):
    """Changes, some in one turn; each turn is read back through a cache and without one."""

    @initialize()
    def begin(self) -> None:
        self.memory = Memory()
        self.cache = Cache()
        self.root: bytes | None = None
        self.next_slot = 0
        self.keys: dict[int, bytes] = {}
        self.open()

    def open(self) -> None:
        self.writer = KeyWriter(
            self.root, self.next_slot, self.memory, self.cache, SYSTEM_RANDOM.token
        )
        self.draft = dict(self.keys)

    @rule(count=st.integers(1, 3 * FANOUT))
    def add(self, count: int) -> None:
        for _ in range(count):
            slot, key = self.writer.add()
            assert slot not in self.keys
            self.draft[slot] = key

    @precondition(lambda self: self.draft)
    @rule(data=st.data(), count=st.integers(1, 2 * FANOUT))
    def drop(self, data: st.DataObject, count: int) -> None:
        first = data.draw(st.sampled_from(sorted(self.draft)))
        for slot in [s for s in sorted(self.draft) if s >= first][:count]:
            self.writer.drop(slot)
            del self.draft[slot]

    @rule()
    def give_up(self) -> None:
        self.open()

    @precondition(lambda self: self.writer.changed)
    @rule()
    def turn(self) -> None:
        old = self.root, self.next_slot
        self.root = SYSTEM_RANDOM.token(KEY_SIZE)
        turned = self.writer.turn(self.root)
        self.next_slot = self.writer.next_slot
        self.cache.turn(self.root, turned)
        self.keys = self.draft
        self.open()
        assert old[0] != self.root
        if old[0] is not None:
            for cache in (self.cache, Cache()):
                with raises(KeysDamaged):
                    KeyReader(*old, self.memory, cache).key(0)

    @precondition(lambda self: self.root)
    @rule()
    def know_the_root_only(self) -> None:
        """As who reads beside another program that writes."""
        assert self.root is not None
        self.cache.begin(self.root)

    @invariant()
    def says_what_was_put(self) -> None:
        for cache in (self.cache, Cache()):
            reader = KeyReader(self.root, self.next_slot, self.memory, cache)
            for slot, key in self.keys.items():
                assert reader.key(slot) == key
            for slot in {0, self.next_slot, SLOTS - 1, SLOTS} - set(self.keys):
                with raises(KeysDamaged):
                    reader.key(slot)
        for slot, key in self.draft.items():
            assert self.writer.key(slot) == key

    @invariant()
    def keeps_no_node_without_children(self) -> None:
        found = Counter(node_level(name) for name in self.memory.nodes)
        below: Iterable[int] = self.keys
        for level in range(LEVELS - 1):
            below = {index // FANOUT for index in below}
            assert found[level] == len(below)
        assert found[LEVELS - 1] == (self.root is not None)


def test_of_very_many_keys_that_go_one_by_one_nothing_is_left() -> None:
    """But the root, which says that the tree is empty."""
    memory, cache = Memory(), Cache()
    root, count = SYSTEM_RANDOM.token(KEY_SIZE), FANOUT**2 * 8
    writer = KeyWriter(None, 0, memory, cache, SYSTEM_RANDOM.token)
    for _ in range(count):
        writer.add()
    cache.turn(root, writer.turn(root))
    assert len(memory.nodes) == FANOUT * 8 + 8 + LEVELS - 2
    for first in range(0, count, FANOUT * 8):
        writer = KeyWriter(root, count, memory, cache, SYSTEM_RANDOM.token)
        for slot in range(first, first + FANOUT * 8):
            writer.drop(slot)
        root = SYSTEM_RANDOM.token(KEY_SIZE)
        cache.turn(root, writer.turn(root))
        left = count - first - FANOUT * 8
        assert sum(node_level(name) == 0 for name in memory.nodes) == left // FANOUT
    assert len(memory.nodes) == 1


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)


def test_a_leaf_is_remembered_of_the_newest_tree_only() -> None:
    """Else who reads beside a program that writes would take the keys of before for those of
    now."""
    memory, cache = Memory(), Cache()
    writer = KeyWriter(None, 0, memory, cache, SYSTEM_RANDOM.token)
    writer.add()
    root = SYSTEM_RANDOM.token(KEY_SIZE)
    cache.turn(root, writer.turn(root))
    assert cache.leaf(root, 0) is not None
    newer = SYSTEM_RANDOM.token(KEY_SIZE)
    assert cache.leaf(newer, 0) is None
    cache.begin(newer)
    assert cache.leaf(newer, 0) is None


def test_of_many_leaves_all_that_are_remembered_are_found_without_a_look_at_a_node() -> None:
    memory, cache, root = Memory(), Cache(), SYSTEM_RANDOM.token(KEY_SIZE)
    writer = KeyWriter(None, 0, memory, cache, SYSTEM_RANDOM.token)
    keys = dict(writer.add() for _ in range(300 * FANOUT))
    cache.turn(root, writer.turn(root))
    memory.nodes.clear()
    reader = KeyReader(root, writer.next_slot, memory, cache)
    assert {slot: reader.key(slot) for slot in keys} == keys


def test_a_changed_node_is_told_and_gives_no_key() -> None:
    memory = Memory()
    writer = KeyWriter(None, 0, memory, Cache(), SYSTEM_RANDOM.token)
    for _ in range(FANOUT * 2):
        writer.add()
    root = SYSTEM_RANDOM.token(KEY_SIZE)
    writer.turn(root)
    for name, sealed in list(memory.nodes.items()):
        for data in (sealed[:-1] + bytes([sealed[-1] ^ 1]), sealed[:-1], b""):
            memory.nodes[name] = data
            with raises(KeysDamaged):
                reader = KeyReader(root, writer.next_slot, memory, Cache())
                for slot in (0, FANOUT):
                    reader.key(slot)
        memory.nodes[name] = sealed
    with raises(KeysDamaged):  # bound to the number of slots that were given out
        KeyReader(root, writer.next_slot - 1, memory, Cache()).key(0)
