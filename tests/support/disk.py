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

from cbfs.storage.key_tree import _NAME, _TOP, FANOUT, KeyWriter, _decode, _place, open_record
from cbfs.storage.records import STATE, STATE_KEY, Table
from cbfs.storage.records import place_of as record_place
from cbfs.storage.root_key import RootFile
from cbfs.storage.sealed_record import HEAD_SIZE, unpack_plain
from cbfs.storage.store import Store
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
        self.generation = store._generation
        for path in self.place.rglob("*"):
            if path.is_file() and path.name not in {"root.key", "lock.mdb", "lock"}:
                data = path.read_bytes()
                self.pages |= {data[i : i + PAGE] for i in range(0, len(data), PAGE)}
        self.roots.append(store._known[store._generation].root)
        with store._env.begin() as txn:
            for name, data in txn.cursor(db=store._nodes):
                if name == STATE_KEY:
                    self.states.add(data)
                else:
                    self.nodes.setdefault(name, set()).add(data)
            for table, db in store._tables.dbs.items():
                for key, data in txn.cursor(db=db):
                    self.records.setdefault(record_place(table, key), set()).add(data)
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

    def turned(self: Store, generation: int, *rest: object) -> None:
        turn(self, generation, *rest)  # type: ignore[arg-type]
        place = Path(self._env.path()).parent
        if place in disks:
            disks[place].take(self)

    monkeypatch.setattr(Store, "_turn", turned)
    return disks


def switch_erasure_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes keep their keys when they change, as in a store whose root never turns."""
    write = KeyWriter._write

    def same_key(self: KeyWriter, level: int, index: int, *rest: object) -> bytes | None:
        if level == _TOP:
            old = self._root
        else:
            old = self._load(level + 1, index // FANOUT)[index % FANOUT]
        token, self._token = self._token, lambda size: old or token(size)
        try:
            return write(self, level, index, *rest)  # type: ignore[arg-type]
        finally:
            self._token = token

    monkeypatch.setattr(KeyWriter, "_write", same_key)


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


def final_root(disk: Disk) -> bytes:
    """What the root file gives away at the end."""
    root_file = RootFile(disk.place / "root.key", lambda _: bytes(32), bytes, read_only=True)
    try:
        return root_file.open(disk.generation)
    finally:
        root_file.close()


def attack(disk: Disk, root: bytes) -> set[tuple[bytes, bytes]]:
    """(table and key, value) of all records in any copy that can be opened from ``root``: every key
    that is found is tried on every node, and then on every record, that ever was in its place."""
    keys: dict[bytes, set[bytes]] = {_NAME.pack(_TOP, 0): {root}}
    record_keys: set[bytes] = set()
    for level in range(_TOP, -1, -1):
        for name in [name for name in disk.nodes if name[0] == level]:
            _level, index = _NAME.unpack(name)
            for key in keys.get(name, ()):
                for sealed in disk.nodes[name]:
                    for children in _opened(disk, level, name, key, sealed):
                        for number, child in enumerate(children):
                            if child is None:
                                continue
                            if level == 0:
                                record_keys.add(child)
                                continue
                            below = _NAME.pack(level - 1, index * FANOUT + number)
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
    disk: Disk, level: int, name: bytes, key: bytes, sealed: bytes
) -> list[tuple[bytes | None, ...]]:
    found = []
    for state in disk.states if level == _TOP else {bytes(STATE.size)}:
        _generation, next_slot = STATE.unpack(state)
        try:
            plain = open_sealed(key, bytes(12), sealed, _place(level, name, next_slot))
        except CryptoError:
            continue
        found.append(_decode(plain))
    return found
