"""The tree of keys, against a dictionary, and against somebody who kept every node."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from pytest import raises

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.storage.key_tree import FANOUT, SLOTS, Cache, KeyReader, KeysDamaged, KeyWriter


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
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(sorted(self.draft)))
        self.draft[slot] = self.writer.renew(slot)

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
        self.root, turned = self.writer.turn()
        self.next_slot = self.writer.next_slot
        self.cache.turn(self.root, turned)
        self.keys = self.draft
        self.open()
        assert old[0] != self.root
        if old[0] is not None:
            with raises(KeysDamaged):
                KeyReader(*old, self.memory, Cache()).key(0)

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
        leaves = {slot // FANOUT for slot in self.keys}
        assert sum(name[0] == 0 for name in self.memory.nodes) == len(leaves)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)


def test_a_changed_node_is_told_and_gives_no_key() -> None:
    memory = Memory()
    writer = KeyWriter(None, 0, memory, Cache(), SYSTEM_RANDOM.token)
    for _ in range(FANOUT * 2):
        writer.add()
    root, _ = writer.turn()
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
