"""The directory's store in LMDB. The only file of the directory that knows lmdb.

One write transaction holds what a round changes: block, entries, map nodes, log hashes, commits,
links, and the verifier's lock. It is on the disk at the end of the ``write`` block; a crash
before leaves nothing of the round, a crash after all of it.

Every record has a check value behind it (``cbfs_host.lmdb_environment``): what a disk has changed
is found out when it is read, before anything that follows from it is answered or signed.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lmdb
import trio

from cbfs_common.errors import DecodeError
from cbfs_common.names.changes import HistoryLink, read_link
from cbfs_common.names.config import config_of
from cbfs_common.names.entry import Round, entry_hash
from cbfs_common.names.layout import Fields, short
from cbfs_common.names.operations import OperationKind
from cbfs_host.calendar import ClockMark, decode_mark
from cbfs_host.complaints import StoreError, hint_of
from cbfs_host.lmdb_environment import DATA, unopened, with_check
from cbfs_host.store_file import StoreFile, Tables
from cbfs_host.store_format import StoreFormat
from cbfs_names.state.block import Block, decode_block, decode_block_round
from cbfs_names.state.map_nodes import Leaf, prefix
from cbfs_names.state.replay import Committed, Transition
from cbfs_names.state.tables import DAMAGED, Cursor, StateTable, StoreFull, is_full, opened

_HEAD = b"head"  # META: the newest published head, a signed note
_CLOCK = b"clock"  # META: see ``calendar.Mark``
_ABSTAIN = b"abstain"  # META: round u64 | checkpoint, see ``abstains``
_BUSY = b"busy"  # META: u64, see ``busy_until``
# META: version, file, see ``cbfs_host.store_format``

FORMAT = StoreFormat(
    "cbfs-names", 2, {0: lambda _txn, _tables: None, 1: lambda _txn, _tables: None}, DAMAGED
)
"""Version 0 is of before there were versions: that it says none is all that is different. Version 1
remembers neither how busy the directory was nor how often names were changed: it begins with none
of either."""


__all__ = ["Snapshot", "StateFigures", "StateStore", "StateTable", "StateWriter"]

_log = logging.getLogger(__name__)


def _number(value: int) -> bytes:
    return value.to_bytes(8, "big")


def _encode_receipt(time: int, operation: bytes) -> bytes:
    """time u64 (seconds) | operation."""
    return _number(time) + operation


def _decode_receipt(record: bytes) -> tuple[int, bytes]:
    return int.from_bytes(record[:8], "big"), record[8:]


def _unreadable(error: lmdb.Error) -> StoreError:
    _log.error("%s", error)
    return StoreError("the store cannot be read", DAMAGED)


@dataclass(frozen=True, slots=True)
class StateFigures:
    """``names`` that there are or were, ``commits`` that are kept, ``rounds`` in the log,
    when the last one was (seconds since 1970, 0 before the first), ``receipts``, pieces of
    ``evidence``, and bytes of the file that are ``used``."""

    names: int
    commits: int
    rounds: int
    last_round: int
    receipts: int
    evidence: int
    used: int


class Snapshot:
    """A consistent view (``replay.View``) of the store: that of its transaction."""

    def __init__(self, dbs: dict[StateTable, Any], txn: Any) -> None:
        self._dbs = dbs
        self._txn = txn

    def close(self) -> None:
        """End the transaction of a snapshot that ``StateStore.snapshot`` gave."""
        self._txn.abort()

    def get(self, table: StateTable, key: bytes) -> bytes | None:
        """The value of a record, or None. Raises StoreError for a damaged one."""
        try:
            data = self._txn.get(key, db=self._dbs[table])
        except lmdb.Error as error:
            raise _unreadable(error) from error
        return None if data is None else opened(table, key, data)

    @contextmanager
    def _cursor(self, table: StateTable) -> Iterator[Cursor]:
        try:
            with self._txn.cursor(db=self._dbs[table]) as cursor:
                yield Cursor(table, cursor)
        except lmdb.MapFullError:
            raise  # of a write
        except lmdb.Error as error:
            raise _unreadable(error) from error

    def _last(self, table: StateTable) -> bytes | None:
        """The last record of a table that has one of each round, or None before the first. A
        damaged page could hide the last ones, and what was signed would be signed otherwise."""
        with self._cursor(table) as cursor:
            count = self._txn.stat(self._dbs[table])["entries"]
            if (int.from_bytes(cursor.key(), "big") + 1 if cursor.last() else 0) != count:
                raise StoreError("the log of rounds is damaged", DAMAGED)
            return cursor.value() if count else None

    def tip_block(self) -> Block | None:
        """The last block, or None before the first round."""
        record = self._last(StateTable.BLOCKS)
        return None if record is None else decode_block(record)

    def tip(self) -> Round | None:
        """The last round, or None before the first."""
        record = self._last(StateTable.BLOCKS)
        return None if record is None else decode_block_round(record)

    def block(self, round_: int) -> Block:
        """The block of a round that is locked."""
        record = self.get(StateTable.BLOCKS, _number(round_))
        if record is None:
            raise StoreError("a round of the log is missing", DAMAGED)
        return decode_block(record)

    def entry(self, index: bytes) -> bytes | None:
        """The encoded entry at an index (32)."""
        return self.get(StateTable.ENTRIES, index)

    def indices(self, start: bytes, most: int) -> list[bytes]:
        """Up to ``most`` indices (32) of entries from ``start`` on."""
        found = list[bytes]()
        with self._cursor(StateTable.ENTRIES) as cursor:
            there = cursor.seek(start) if start else cursor.first()
            while there and len(found) < most:
                found.append(cursor.key())
                there = cursor.next()
        return found

    def node(self, key: bytes) -> bytes | None:
        """A record of the map's tree."""
        return self.get(StateTable.NODES, key)

    def leaf(self, index: bytes, depth: int) -> Leaf:
        """The leaf under the first ``depth`` bits of an index."""
        with self._cursor(StateTable.ENTRIES) as cursor:
            start = prefix(index, depth)
            if not cursor.seek(start) or prefix(cursor.key(), depth) != start:
                raise StoreError("the map of names is damaged", DAMAGED)
            return cursor.key(), entry_hash(cursor.value())

    def log_hash(self, level: int, index: int) -> bytes:
        """A complete subtree's hash of the log."""
        found = self.get(StateTable.LOG, bytes([level]) + _number(index))
        if found is None:
            raise StoreError("the log of rounds is damaged", DAMAGED)
        return found

    def committed(self, commitment: bytes) -> Committed | None:
        """When this commitment (32) was made."""
        record = self.get(StateTable.COMMITS, commitment)
        if record is None:
            return None
        fields = Fields(record, "a commitment's record")
        round_, place, time = fields.number(8), fields.number(4), fields.number(8)
        return Committed(round_, place, time, fields.short(), fields.short().decode("ascii"))

    def commit_count(self) -> int:
        """How many commitments are kept."""
        count: int = self._txn.stat(self._dbs[StateTable.COMMITS])["entries"]
        return count

    def busy_until(self) -> int:
        """Until when (seconds) COMMITs that no invite has let in are remembered."""
        return int.from_bytes(self.get(StateTable.META, _BUSY) or b"", "big")

    def turns_used(self, index: bytes, kind: OperationKind) -> int:
        """Until when (seconds) a name's (32) turns for changes of this kind are used."""
        return int.from_bytes(self.get(StateTable.TURNS, index + bytes([kind])) or b"", "big")

    def invite(self, key: bytes) -> bytes | None:
        """What an invite (by its key, 32) was last used for; empty when spent."""
        return self.get(StateTable.INVITES, key)

    def figures(self) -> StateFigures:
        """What there is in it, as its tables say."""
        stats = {table: self._txn.stat(db) for table, db in self._dbs.items()}
        count = {table: int(stat["entries"]) for table, stat in stats.items()}
        pages = sum(
            stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
            for stat in stats.values()
        )
        tip = self.tip()
        return StateFigures(
            names=count[StateTable.ENTRIES],
            commits=count[StateTable.COMMITS],
            rounds=self.size(),
            last_round=0 if tip is None else tip.time,
            receipts=count[StateTable.RECEIPTS],
            evidence=count[StateTable.EVIDENCE],
            used=pages * int(stats[StateTable.META]["psize"]),
        )

    def directory(self) -> bytes:
        """What stands for the directory (16)."""
        return config_of(self.config_text(0)).directory

    def size(self) -> int:
        """How many rounds are locked."""
        self._last(StateTable.LOCKS)
        return int(self._txn.stat(self._dbs[StateTable.LOCKS])["entries"])

    def config_text(self, round_: int | None = None) -> str:
        """The configuration in force in a round, or in the next one."""
        number = self.size() if round_ is None else round_
        with self._cursor(StateTable.CONFIGS) as cursor:
            found = cursor.seek(_number(number + 1))
            if not (cursor.prev() if found else cursor.last()):
                raise StoreError("the store is empty or damaged", DAMAGED)
            text: bytes = cursor.value()
        return text.decode("ascii")

    def head(self) -> bytes | None:
        """The newest published head, a signed note."""
        return self.get(StateTable.META, _HEAD)

    def abstains(self) -> tuple[int, bytes] | None:
        """The round up to which this verifier, started from a copy, leaves all to the others, but
        for what makes this checkpoint, which it has signed before."""
        record = self.get(StateTable.META, _ABSTAIN)
        return None if record is None else (int.from_bytes(record[:8], "big"), record[8:])

    def vote(self, key: bytes) -> bytes | None:
        """The largest checkpoint that the verifier with this key (32) has signed, a signed note."""
        return self.get(StateTable.VOTES, key)

    def receipts(self) -> Iterator[tuple[int, bytes]]:
        """Time and operation of every receipt given and not yet carried out or void."""
        with self._cursor(StateTable.RECEIPTS) as cursor:
            for record in cursor.values():
                yield _decode_receipt(record)

    def receipt(self, key: bytes) -> int | None:
        """The time of the receipt for an operation with this hash (32)."""
        record = self.get(StateTable.RECEIPTS, key)
        return None if record is None else _decode_receipt(record)[0]

    def receipt_count(self) -> int:
        """How many receipts are kept."""
        return int(self._txn.stat(self._dbs[StateTable.RECEIPTS])["entries"])

    def evidence(self) -> list[bytes]:
        """All evidence of equivocation, encoded."""
        with self._cursor(StateTable.EVIDENCE) as cursor:
            return list(cursor.values())

    def commits_until(self, time: int) -> Iterator[bytes]:
        """Commitments made at or before ``time`` (seconds)."""
        with self._cursor(StateTable.COMMIT_TIMES) as cursor:
            found = cursor.first()
            while found and int.from_bytes(cursor.key()[:8], "big") <= time:
                yield cursor.key()[8:]
                found = cursor.next()

    def links(self, index: bytes, incarnation: int, after: int) -> Iterator[HistoryLink]:
        """Links of an incarnation after this version, oldest first."""
        start = index + incarnation.to_bytes(4, "big")
        with self._cursor(StateTable.LINKS) as cursor:
            found = cursor.seek(start + min(after + 1, 2**32 - 1).to_bytes(4, "big"))
            while found and cursor.key().startswith(start):
                yield read_link(Fields(cursor.value(), "a link"))
                found = cursor.next()

    def newest_links(self, index: bytes, incarnation: int, version: int) -> Iterator[HistoryLink]:
        """Links of an incarnation from this version down to 2, newest first."""
        for number in range(version, 1, -1):
            key = index + incarnation.to_bytes(4, "big") + number.to_bytes(4, "big")
            record = self.get(StateTable.LINKS, key)
            if record is None:
                raise StoreError("an entry's history is damaged", DAMAGED)
            yield read_link(Fields(record, "a link"))

    def mark(self) -> ClockMark | None:
        """The time as it was noted last, or None."""
        found = self.get(StateTable.META, _CLOCK)
        try:
            return None if found is None else decode_mark(found)
        except DecodeError as error:
            raise StoreError("a record of the store is damaged", DAMAGED) from error

    def lock(self, round_: int) -> bytes | None:
        """The leaf hash (32) that this verifier has locked for a round."""
        return self.get(StateTable.LOCKS, _number(round_))

    def refused(self, round_: int, leaf: bytes) -> bytes | None:
        """The signed refusal of a block with this leaf hash (32)."""
        return self.get(StateTable.REFUSALS, _number(round_) + leaf)

    def proposal(self, round_: int) -> Block | None:
        """What this sequencer has proposed for a round that is not locked yet."""
        record = self.get(StateTable.PROPOSALS, _number(round_))
        return None if record is None else decode_block(record)


class StateWriter(Snapshot):
    """A transaction that can also change the store."""

    def _put(self, table: StateTable, key: bytes, value: bytes) -> None:
        self._txn.put(key, with_check(table.value, key, value), db=self._dbs[table])

    def lock_round(
        self, block: Block, change: Transition, log_hashes: dict[tuple[int, int], bytes]
    ) -> None:
        """Write everything that a round changes, with its lock."""
        number = _number(block.round.number)
        self._put(StateTable.BLOCKS, number, block.encode())
        self._put(StateTable.LOCKS, number, block.round.digest())
        for index, entry in change.entries.items():
            self._put(StateTable.ENTRIES, index, entry)
        for key, node in change.nodes.items():
            self._put(StateTable.NODES, key, node)
        for (level, at), digest in log_hashes.items():
            self._put(StateTable.LOG, bytes([level]) + _number(at), digest)
        for key, used in change.invites.items():
            self._put(StateTable.INVITES, key, used)
        for (index, kind), until in change.turns.items():
            self._put(StateTable.TURNS, index + bytes([kind]), _number(until))
        if change.config is not None:
            self._put(
                StateTable.CONFIGS, _number(block.round.number + 1), change.config.encode("ascii")
            )
        for index, incarnation, version, link in change.links:
            key = index + incarnation.to_bytes(4, "big") + version.to_bytes(4, "big")
            self._put(StateTable.LINKS, key, link.encode())
        self._change_commits(change)

    def _change_commits(self, change: Transition) -> None:
        for commitment in change.commits_over:
            made = self.committed(commitment)
            if made is not None:
                self._txn.delete(commitment, db=self._dbs[StateTable.COMMITS])
                key = _number(made.time) + commitment
                self._txn.delete(key, db=self._dbs[StateTable.COMMIT_TIMES])
        for commitment, made in change.commits.items():
            record = _number(made.round) + made.place.to_bytes(4, "big") + _number(made.time)
            record += short(made.invite) + short(made.granted.encode("ascii"))
            self._put(StateTable.COMMITS, commitment, record)
            self._put(StateTable.COMMIT_TIMES, _number(made.time) + commitment, b"")
        if change.busy != self.busy_until():
            self._put(StateTable.META, _BUSY, _number(change.busy))

    def put_mark(self, mark: ClockMark) -> None:
        """Note the time."""
        self._put(StateTable.META, _CLOCK, mark.encode())

    def begin(self, config: str) -> None:
        """Set the configuration in force from the first round on."""
        self._put(StateTable.CONFIGS, _number(0), config.encode("ascii"))

    def refuse(self, round_: int, leaf: bytes, refusal: bytes) -> None:
        """Keep a signed refusal, encoded, under its round and leaf hash (32)."""
        self._put(StateTable.REFUSALS, _number(round_) + leaf, refusal)

    def propose(self, block: Block) -> None:
        """Keep a proposal, the one of its round."""
        self._put(StateTable.PROPOSALS, _number(block.round.number), block.encode())

    def drop_proposals(self, end: int) -> None:
        """Forget the proposals of rounds before ``end``."""
        with self._cursor(StateTable.PROPOSALS) as cursor:
            found = cursor.first()
            while found and int.from_bytes(cursor.key(), "big") < end:
                found = cursor.delete()

    def keep_head(self, note: bytes) -> None:
        """Keep the newest published head, a signed note."""
        self._put(StateTable.META, _HEAD, note)

    def abstain(self, round_: int, checkpoint: bytes) -> None:
        """Leave rounds up to this one to the others, but for what makes this checkpoint."""
        self._put(StateTable.META, _ABSTAIN, _number(round_) + checkpoint)

    def keep_vote(self, key: bytes, note: bytes) -> None:
        """Keep the largest checkpoint that a verifier has signed, a signed note, under the
        verifier's key (32)."""
        self._put(StateTable.VOTES, key, note)

    def keep_receipt(self, key: bytes, time: int, operation: bytes) -> None:
        """Keep a receipt's time (seconds) and operation under the operation's hash (32)."""
        self._put(StateTable.RECEIPTS, key, _encode_receipt(time, operation))

    def drop_receipt(self, key: bytes) -> None:
        """Forget a receipt whose operation is carried out, or void."""
        self._txn.delete(key, db=self._dbs[StateTable.RECEIPTS])

    def keep_evidence(self, key: bytes, evidence: bytes) -> None:
        """Keep evidence of equivocation, encoded, under its hash (32), for ever."""
        self._put(StateTable.EVIDENCE, key, evidence)


class StateStore:
    """The store under ``path``; one process at a time, which the directory's lock file ensures."""

    def __init__(self, path: Path, config: str | None) -> None:
        """``config``: the directory's first configuration, with which a new store is made, whole
        or not at all; of one that is there it has the same log. None takes a store that is there.
        Raises StoreError."""
        begin = None if config is None else partial(_begin, config)
        names = tuple(table.value for table in StateTable)
        self._file = StoreFile(path, names, FORMAT, begin)
        self._env = self._file.env
        self._dbs = _handles(self._file.tables)
        try:
            with self.read() as view:
                log = config_of(view.config_text(0)).log
            if config is not None and config_of(config).log != log:
                raise StoreError(
                    f"the store in {path} belongs to another directory's keys",
                    "put the key files and the configuration back that belong to it",
                )
        except lmdb.Error as error:
            self._file.close()
            raise unopened(path, error, DAMAGED) from error
        except StoreError:
            self._file.close()
            raise

    @property
    def is_copy(self) -> bool:
        """Whether the store lies in another file than it says, so that rounds may have been signed
        since it was copied."""
        return self._file.is_copy

    def settle(self) -> None:
        """Note that the store lies here, and that it is no old copy, or that others say what was
        signed since. Raises StoreError."""
        self._file.settle()

    def compact(self) -> tuple[int, int]:
        """Write the store anew without its free pages, when nobody else uses it; bytes of its file
        before and after. A crash leaves the old store, or the new one. Raises StoreError."""
        data = self._file.path / DATA
        before = data.stat().st_size
        self._file.change(self._file.write_anew(self.figures().used))
        return before, data.stat().st_size

    def check_records(self, rest: Callable[[], None]) -> tuple[int, int]:
        """As ``StoreFile.check_records``."""
        return self._file.check_records(rest)

    def copy_into(self, descriptor: int) -> None:
        """Put the store, as it is now, into an empty file, without free pages; on the disk on
        return. Blocks; everything goes on beside it. Raises StoreError."""
        self._file.copy_into(descriptor)

    def close(self) -> None:
        """Close the files. All snapshots must be closed."""
        self._file.close()

    def snapshot(self) -> Snapshot:
        """The store as it is now, until ``close`` is called on it. Raises StoreError."""
        try:
            return Snapshot(self._dbs, self._env.begin())
        except lmdb.Error as error:
            raise _unreadable(error) from error

    def figures(self) -> StateFigures:
        """What there is in it now. Raises StoreError."""
        with self.read() as view:
            return view.figures()

    @contextmanager
    def read(self) -> Iterator[Snapshot]:
        """The store as it is now, for a block. Raises StoreError."""
        view = self.snapshot()
        try:
            yield view
        finally:
            view.close()

    async def progress(self) -> None:
        """Wait until a transaction could be begun that writes: none hangs."""
        await trio.to_thread.run_sync(self._begin_and_end, abandon_on_cancel=True)

    def _begin_and_end(self) -> None:
        with suppress(StoreError), self.write():
            return

    @contextmanager
    def write(self) -> Iterator[StateWriter]:
        """A transaction, on the disk at the end of the block; an exception undoes it. Raises
        StoreError when the disk does not take it, StoreFull when it is full."""
        try:
            with self._env.begin(write=True) as txn:
                yield StateWriter(self._dbs, txn)
        except lmdb.Error as error:
            kind = StoreFull if is_full(error) else StoreError
            raise kind(f"the store cannot be written: {error}", hint_of(error, DAMAGED)) from error


def _begin(config: str, txn: Any, tables: Tables) -> None:
    """Put into a new store what it begins with."""
    StateWriter(_handles(tables), txn).begin(config)


def _handles(tables: Tables) -> dict[StateTable, Any]:
    return {table: tables[table.value] for table in StateTable}
