"""Where records are: the map in memory against a dictionary, what hides a slot, and what tables
without an order can be asked for."""

from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cbfs.storage import shelf as shelves
from cbfs.storage.encoding import u32, u64
from cbfs.storage.key_tree import KeysDamaged
from cbfs.storage.sealed_record import HEAD_SIZE, head_of, pack_plain, slot_of, unpack_plain
from cbfs.storage.shelf import Leaf, Node, Shelf, Spot, make_shelf
from cbfs.storage.store import DamagedRecord, Store, Table, Writer
from tests.support.stores import open_store

KEYS = st.binary(min_size=1, max_size=2)
TALK = b"c" * 16


@pytest.fixture(autouse=True, scope="module")
def small_nodes() -> Iterator[None]:
    """So few keys in a node that the trees of these tests are several nodes deep."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shelves, "NODE_MAX", 8)
        yield


def depths_of(node: Node) -> Iterator[int]:
    """Of all leaves, having looked at what holds of each node."""
    assert 0 < len(node.keys) <= shelves.NODE_MAX
    assert node.keys == sorted(set(node.keys))
    if isinstance(node, Leaf):
        assert len(node.spots) == len(node.keys)
        yield 0
    else:
        assert node.keys == [each.keys[0] for each in node.below]
        for each in node.below:
            yield from (depth + 1 for depth in depths_of(each))


class Machine(RuleBasedStateMachine):
    """Keys come and go, one by one and many, in one transaction and the next; neither a map that
    was settled nor a look through one changes by it."""

    @initialize(keys=st.sets(KEYS, max_size=300))
    def begin(self, keys: set[bytes]) -> None:
        self.there = {key: Spot(key * 16) for key in keys}
        self.settled = make_shelf(self.there.items(), damaged=3)
        self.shelf = self.settled.change()
        self.before = [(self.settled, dict(self.there))]
        self.looks: list[tuple[Iterator[bytes], list[bytes]]] = []

    @rule(keys=st.sets(KEYS, max_size=200), place=st.binary(min_size=16, max_size=16))
    def come(self, keys: set[bytes], place: bytes) -> None:
        for key in keys:
            self.shelf.put(key, Spot(place))
            self.there[key] = Spot(place)

    @rule(keys=st.sets(KEYS, max_size=200))
    def go(self, keys: set[bytes]) -> None:
        for key in keys:
            self.shelf.remove(key)
            self.there.pop(key, None)

    @rule()
    def settle(self) -> None:
        self.before.append((self.shelf.settled(), dict(self.there)))

    @rule(which=st.integers(0, 50))
    def begin_anew(self, which: int) -> None:
        """The next transaction; of a map from before when the last one has failed."""
        self.settled, there = self.before[which % len(self.before)]
        self.shelf, self.there = self.settled.change(), dict(there)

    @rule()
    def look(self) -> None:
        look = self.shelf.keys()
        self.looks.append((look, [first] if (first := next(look, b"")) else []))
        self.looks[-1][1].extend(key for key in sorted(self.there) if key != first)

    @rule()
    def look_on(self) -> None:
        for look, keys in self.looks:
            assert list(look) == keys[1:]
        self.looks = []

    @rule(prefix=st.binary(max_size=1), start=st.none() | KEYS, key=KEYS)
    def ask(self, prefix: bytes, start: bytes | None, key: bytes) -> None:
        order = sorted(self.there)
        found = [k for k in order if k.startswith(prefix) and k >= (start or b"")]
        assert list(self.shelf.keys(prefix, start)) == found
        assert self.shelf.get(key) == self.there.get(key)
        at = bisect_right(order, key)
        assert self.shelf.last_up_to(key) == (order[at - 1] if at else None)

    @invariant()
    def it_is_whole(self) -> None:
        assert len(self.shelf) == len(self.there)
        assert self.shelf.damaged == 3
        if self.shelf.root is not None:
            depths = set(depths_of(self.shelf.root))
            assert len(depths) == 1
        for known, there in self.before:
            keys = list(known.keys())
            assert [(key, known.get(key)) for key in keys] == sorted(there.items())
            assert len(known) == len(there)


Machine.TestCase.settings = settings(max_examples=30, stateful_step_count=15, deadline=None)
TestShelf = Machine.TestCase


def test_an_empty_map_has_nothing() -> None:
    assert not list(Shelf().keys())
    assert Shelf().get(b"a") is None
    assert Shelf().last_up_to(b"a") is None
    changing = Shelf().change()
    changing.remove(b"a")
    assert not changing


def test_a_slot_is_hidden_and_its_damage_shows() -> None:
    key, bound = bytes(32), b"\5table" + bytes(16)
    sealed = [bytes([number]) * 40 for number in range(2)]
    records = [head_of(key, bound, 7, each) + each for each in sealed]
    assert [slot_of(key, bound, record) for record in records] == [7, 7]
    one, two = (int.from_bytes(record[:HEAD_SIZE], "big") for record in records)
    assert one ^ two > 1 << 64, "the pads differ"
    for bit in range(8 * HEAD_SIZE):
        head = (one ^ 1 << bit).to_bytes(HEAD_SIZE, "big")
        with pytest.raises(KeysDamaged):
            slot_of(key, bound, head + sealed[0])
    for other in ((b"k" * 32, bound), (key, bound[:-1] + b"x")):
        with pytest.raises(KeysDamaged):
            slot_of(*other, records[0])
    with pytest.raises(KeysDamaged):
        slot_of(key, bound, records[0][: HEAD_SIZE + 15])


def test_what_is_sealed_of_a_record_comes_back() -> None:
    for parts in ((b"", b"", b""), (b"k" * 300, b"s" * 32, b"v"), (b"k", b"", bytes(70_000))):
        assert unpack_plain(pack_plain(*parts)) == parts


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = open_store(tmp_path)
    made.write(lambda writer: writer.put(Table.CONVERSATIONS, TALK, b"talk"))
    yield made
    made.close()


def test_keys_with_one_prefix_are_found_in_order(store: Store) -> None:
    keys = {
        Table.CONTENT: [u64(5) + u32(index) for index in (0, 1, 6, 900)],
        Table.LISTINGS: [TALK + u64(serial) for serial in (3, 9, 1 << 40)],
        Table.GONE: [TALK + u64(4) + u32(index) for index in (0, 77)],
    }
    for table, some in keys.items():
        prefix = some[0][: {Table.CONTENT: 8, Table.LISTINGS: 16, Table.GONE: 24}[table]]

        def put(writer: Writer, table: Table = table, some: list[bytes] = some) -> None:
            for key in reversed(some):
                writer.put(table, key, b"value of " + key)

        store.write(put)
        with store.read() as reader:
            assert list(reader.keys(table, prefix)) == some
            assert list(reader.keys(table, prefix, some[1])) == some[1:]
            assert sorted(reader.keys(table)) == sorted(some)
            assert [key for key, _value in reader.items(table, prefix)] == some
            with pytest.raises(ValueError, match="prefix"):
                list(reader.keys(table, prefix + b"x"))
            if table is not Table.CONTENT:
                assert reader.last(table, prefix) == (some[-1], b"value of " + some[-1])
                assert reader.key_up_to(table, some[1], prefix) == some[1]
        assert store.write(lambda w, t=table, k=some[1]: w.delete(t, k))  # type: ignore[misc]
        with store.read() as reader:
            assert list(reader.keys(table, prefix)) == [some[0], *some[2:]]
        left = len(some) - 1
        assert store.write(lambda w, t=table, p=prefix: w.delete_prefix(t, p)) == left  # type: ignore[misc]
        with store.read() as reader:
            assert reader.count(table) == 0, "nothing is left of what listed them"


def test_what_belongs_to_a_conversation_is_there_as_long_as_it_is(store: Store) -> None:
    key = TALK + u64(1)
    store.write(lambda writer: writer.put(Table.MESSAGE_IDS, key, b"hello"))
    with pytest.raises(DamagedRecord):
        store.write(lambda writer: writer.put(Table.MESSAGE_IDS, b"x" * 24, b"hello"))
    with store.read() as reader:
        before = reader.place(Table.MESSAGE_IDS, key)
        assert reader.get(Table.MESSAGE_IDS, key) == b"hello"
        assert reader.get(Table.MESSAGE_IDS, b"x" * 24) is None
    store.write(lambda writer: writer.delete(Table.CONVERSATIONS, TALK))
    with store.read() as reader:
        assert reader.get(Table.MESSAGE_IDS, key) is None
    store.write(lambda writer: writer.put(Table.CONVERSATIONS, TALK, b"talk"))
    with store.read() as reader:
        assert reader.get(Table.MESSAGE_IDS, key) is None
        assert reader.place(Table.MESSAGE_IDS, key) != before


def test_a_change_that_fails_leaves_the_map_as_it_was(store: Store) -> None:
    def fail(writer: Writer) -> None:
        writer.put(Table.PEERS, b"new", b"1")
        writer.delete(Table.CONVERSATIONS, TALK)
        raise KeyError

    with pytest.raises(KeyError):
        store.write(fail)
    with store.read() as reader:
        assert not list(reader.keys(Table.PEERS))
        assert reader.get(Table.CONVERSATIONS, TALK) == b"talk"
        store.write(lambda writer: writer.put(Table.PEERS, b"new", b"1"))
        assert not list(reader.keys(Table.PEERS)), "a reader sees the moment at which it began"
    with store.read() as reader:
        assert list(reader.items(Table.PEERS)) == [(b"new", b"1")]


def one_of_two_damaged(place: Path, table: Table) -> Store:
    """A store whose table has a record ``one``, which cannot be read, and ``two``."""
    store = open_store(place)
    for key in (b"one", b"two"):
        store.write(lambda writer, key=key: writer.put(table, key, key))  # type: ignore[misc]
    with store.read() as reader:
        at = reader.place(table, b"one")
    with store._env.begin(write=True) as txn:
        sealed = bytearray(txn.get(at) or b"")
        sealed[HEAD_SIZE] ^= 1
        txn.put(at, bytes(sealed))
    store.close()
    return open_store(place)


def test_a_key_that_cannot_be_read_is_not_taken_for_one_that_is_not_there(tmp_path: Path) -> None:
    store = one_of_two_damaged(tmp_path, Table.PEERS)
    with store.read() as reader:
        assert reader.get(Table.PEERS, b"two") == b"two"
        for ask in (
            lambda: reader.get(Table.PEERS, b"one"),
            lambda: list(reader.keys(Table.PEERS)),
            lambda: reader.key_up_to(Table.PEERS, b"z"),
        ):
            with pytest.raises(DamagedRecord):
                ask()
    for change in (Writer.put, Writer.delete):
        with pytest.raises(DamagedRecord):
            arguments = (Table.PEERS, b"one", b"x")[: 3 if change is Writer.put else 2]
            store.write(lambda w, c=change, a=arguments: c(w, *a))  # type: ignore[misc]
    store.close()


def test_damaged_noise_is_passed_over(tmp_path: Path) -> None:
    """Anybody fills the quarantine with noise: it must not be what keeps an account from being
    mounted when the disk has lost a bit."""
    store = one_of_two_damaged(tmp_path, Table.QUARANTINE)
    with store.read() as reader:
        assert list(reader.items(Table.QUARANTINE)) == [(b"two", b"two")]
        assert reader.get(Table.QUARANTINE, b"one") is None
        assert reader.count(Table.QUARANTINE) == 1
    store.write(lambda writer: writer.put(Table.QUARANTINE, b"three", b"3"))
    with store.read() as reader:
        assert list(reader.keys(Table.QUARANTINE)) == [b"three", b"two"]
    store.close()


def test_random_numbers_are_never_nothing(store: Store) -> None:
    found = {store.write(Writer.random_number) for _ in range(20)}
    assert len(found) == 20
    assert all(0 < number < 1 << 64 for number in found)
