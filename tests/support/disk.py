"""Somebody who has had every version of a store's pages, and has the root's key as it is now.

``Disk`` takes down all that each commit of a store wrote, sealed, and what it said, in plain.
``Attacker`` is given the sealed part, the final root and everything that it opens."""

import errno
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cbfs.storage.key_tree import (
    _NONE,
    _TOP,
    FANOUT,
    Children,
    KeyWriter,
    Turned,
    _decode,
    _place,
    node_index,
    node_level,
    node_name,
    open_record,
)
from cbfs.storage.records import Table
from cbfs.storage.records import place_of as record_place
from cbfs.storage.root_key import RootFile
from cbfs.storage.sealed_record import HEAD_SIZE, unpack_plain
from cbfs.storage.store import Store
from cbfs.storage.tables import table_at
from cbfs.storage.txn_nodes import STATE_KEY, TreeState, decode_state
from cbfs_common.errors import CryptoError
from cbfs_common.primitives import open_sealed

PAGE = 4_096
Plain = tuple[Table, bytes, bytes]


@dataclass
class Disk:
    """Of one account directory. ``plain``: every record that ever was, as its owner read it;
    ``now``: those of the last commit."""

    place: Path
    nodes: dict[bytes, set[bytes]] = field(default_factory=dict)
    states: set[bytes] = field(default_factory=set)
    records: dict[bytes, set[bytes]] = field(default_factory=dict)
    pages: set[bytes] = field(default_factory=set)
    roots: list[bytes] = field(default_factory=list)
    plain: set[Plain] = field(default_factory=set)
    now: set[Plain] = field(default_factory=set)
    generation: int = 0

    def take(self, store: Store) -> None:
        """Copy everything, after a commit."""
        self.generation = store._now.generation
        for path in self.place.rglob("*"):
            if path.is_file() and path.name not in {"root.key", "lock.mdb", "lock"}:
                data = path.read_bytes()
                self.pages |= {data[i : i + PAGE] for i in range(0, len(data), PAGE)}
        self.roots.append(store._known[store._now].key)
        with store._env.begin() as txn:
            for name, data in txn.cursor():
                if name == STATE_KEY:
                    self.states.add(data)
                elif node_level(name) is not None:
                    self.nodes.setdefault(name, set()).add(data)
                else:
                    table = table_at(name)
                    assert table is not None
                    self.records.setdefault(record_place(table, name), set()).add(data)
        with store.read() as reader:
            self.now = {(t, key, value) for t in Table for key, value in reader.items(t)}
        self.plain |= self.now

    def gone(self) -> set[Plain]:
        """Records that were, and are no more or say something else now."""
        return self.plain - self.now


def follow(monkeypatch: pytest.MonkeyPatch, places: Iterable[Path]) -> dict[Path, Disk]:
    """Take down the stores of these account directories from now on."""
    disks = {place: Disk(place) for place in places}
    turn = Store._turn

    def turned(self: Store, *how: object) -> None:
        turn(self, *how)  # type: ignore[arg-type]
        place = Path(self._env.path()).parent
        if place in disks:
            disks[place].take(self)

    monkeypatch.setattr(Store, "_turn", turned)
    return disks


def switch_erasure_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes keep their keys when they change, as in a store whose root never turns."""
    write, drop = KeyWriter._write, KeyWriter.drop

    def same_key(
        self: KeyWriter, level: int, index: int, children: Children, turned: Turned, key: bytes
    ) -> bytes | None:
        above = self._load(level + 1, index // FANOUT) if level < _TOP else _NONE
        return write(self, level, index, children, turned, above[index % FANOUT] or key)

    roots: dict[bytes, bytes] = {}
    root = TreeState.root

    def same_root(self: TreeState, key: bytes) -> bytes:
        return roots.setdefault(key, root(self, key))

    def dropped(self: KeyWriter, slot: int) -> None:
        drop(self, slot)
        self.next_slot += 1  # by which a commit is told that turns nothing

    never = property(lambda _: False, lambda _, turns: None)
    monkeypatch.setattr(KeyWriter, "_write", same_key)
    monkeypatch.setattr(KeyWriter, "drop", dropped)
    monkeypatch.setattr(KeyWriter, "takes_away", never, raising=False)
    monkeypatch.setattr(Store, "_turns", never, raising=False)
    monkeypatch.setattr(TreeState, "root", same_root)


@contextmanager
def small_disk(place: Path, size: int) -> Iterator[Path]:
    """A file system of its own."""
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "cbfs-test", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def use_up(disk: Path) -> Path:
    """Another program takes all that is left; its file."""
    path = disk / "other"
    try:
        with path.open("ab", buffering=0) as file:
            while file.write(bytes(1 << 12)):
                pass
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
    return path


def final_roots(disk: Disk) -> set[bytes]:
    """What the root file gives away at the end, whether it counts or not."""
    root_file = RootFile(disk.place / "root.key", lambda _: bytes(32), bytes, read_only=True)
    try:
        return {root_file.open(slot.generation) for slot in root_file._slots()}
    finally:
        root_file.close()


def attack(disk: Disk, roots: set[bytes]) -> set[tuple[bytes, bytes]]:
    """(table and key, value) of all records in any copy that can be opened from ``roots``: every
    key that is found is tried on every node, and then on every record, that ever was in its
    place."""
    tops: dict[bytes, set[int]] = {}
    for state in map(decode_state, disk.states):
        for root in roots:
            tops.setdefault(state.root(root), set()).add(state.moment.next_slot)
    keys: dict[bytes, set[bytes]] = {node_name(_TOP, 0): set(tops)}
    record_keys: set[bytes] = set()
    for level in range(_TOP, -1, -1):
        for name in [name for name in disk.nodes if node_level(name) == level]:
            index = node_index(name)
            for key in keys.get(name, ()):
                for sealed in disk.nodes[name]:
                    slots = tops[key] if level == _TOP else {0}
                    for children in _opened(slots, level, name, key, sealed):
                        for number, child in enumerate(children):
                            if child is None:
                                continue
                            if level == 0:
                                record_keys.add(child)
                                continue
                            below = node_name(level - 1, index * FANOUT + number)
                            keys.setdefault(below, set()).add(child)
    found = set()
    for place, values in disk.records.items():
        for data in values:
            for key in record_keys:
                try:
                    plain = open_record(key, data[HEAD_SIZE:], place)
                except CryptoError:
                    continue
                name, _secret, value = unpack_plain(plain)
                found.add((place[: 1 + place[0]] + name, value))
    return found


def _opened(
    slots: set[int], level: int, name: bytes, key: bytes, sealed: bytes
) -> list[tuple[bytes | None, ...]]:
    """``slots``: those that a root may be bound to."""
    found = []
    for next_slot in slots:
        try:
            plain = open_sealed(key, bytes(12), sealed, _place(level, name, next_slot))
        except CryptoError:
            continue
        found.append(_decode(plain))
    return found
