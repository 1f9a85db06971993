"""The client's store, killed at every point of a commit, out of space, and damaged."""

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest
import trio
import trio.testing

from cbfs.account.account import SYSTEM_RANDOM, salvaging
from cbfs.storage.group_commit import GroupCommit, Pending
from cbfs.storage.root_key import MAGIC, OLDEST, RootError, magic
from cbfs.storage.store import Store, Table, Writer
from tests.support.stores import open_store

WAIT = 60.0
OLD, NEW = b"the old value of a record", b"the new value of a record"


class Fault:
    """Copies the account directory at the n-th point that is passed: what a kill there leaves on
    the disk is what the copy has."""

    def __init__(self, place: Path, copy: Path, number: int) -> None:
        self.place = place
        self.copy = copy
        self.left = number

    def point(self) -> None:
        self.left -= 1
        if self.left == 0:
            shutil.copytree(self.place, self.copy)


def wrapped(store: Store, fault: Fault) -> None:
    """Put points before, in the middle of and after each write of the root file."""
    root_file = store._root_file

    def put(number: int, data: bytes) -> None:
        fault.point()
        half = len(data) // 2
        os.pwrite(root_file._descriptor, data[:half], number * 4_096)
        fault.point()
        os.pwrite(root_file._descriptor, data[half:], number * 4_096 + half)
        os.fdatasync(root_file._descriptor)
        fault.point()

    root_file._put = put  # type: ignore[method-assign]


def change(fault: Callable[[], None]) -> Callable[[Writer], None]:
    def apply(writer: Writer) -> None:
        fault()
        writer.put(Table.META, b"a", NEW)
        writer.delete(Table.META, b"b")
        writer.put(Table.META, b"c", NEW)
        fault()

    return apply


def contents(store: Store) -> dict[bytes, bytes]:
    with store.read() as reader:
        return dict(reader.items(Table.META))


BEFORE = {b"a": OLD, b"b": OLD}
AFTER = {b"a": NEW, b"c": NEW}
POINTS = 8
"""Two in the change, three for each write of the root file."""


def test_a_kill_at_any_point_leaves_all_or_nothing_and_is_put_in_order(tmp_path: Path) -> None:
    seen = []
    for number in range(1, POINTS + 1):
        place, copy = tmp_path / f"place{number}", tmp_path / f"copy{number}"
        place.mkdir()
        store = open_store(place)
        for key in BEFORE:
            store.write(lambda writer, key=key: writer.put(Table.META, key, OLD))  # type: ignore[misc]
        fault = Fault(place, copy, number)
        wrapped(store, fault)
        store.write(change(fault.point))
        assert fault.left == number - POINTS, "there are as many points as are told"
        assert contents(store) == AFTER
        store.close()
        again = open_store(copy)
        seen.append(contents(again))
        assert seen[-1] in (BEFORE, AFTER)
        assert again._root_file.settled(again._now.generation), (
            "the key that does not count is gone"
        )
        again.write(lambda writer: writer.put(Table.META, b"d", NEW))
        assert contents(again) == {**seen[-1], b"d": NEW}
        again.close()
    assert seen == [BEFORE] * 5 + [AFTER] * 3


def test_a_root_file_of_another_time_is_told(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    old = (tmp_path / "root.key").read_bytes()
    store.write(lambda writer: writer.put(Table.META, b"a", OLD))
    store.close()
    (tmp_path / "root.key").write_bytes(old)
    with pytest.raises(RootError, match="does not belong"):
        open_store(tmp_path)


def test_a_store_of_an_earlier_cbfs_is_not_called_damaged(tmp_path: Path) -> None:
    """Its pages are others, and say nothing to this one: neither here nor to an export."""
    open_store(tmp_path).close()
    root = tmp_path / "root.key"
    root.write_bytes(root.read_bytes().replace(MAGIC, magic(OLDEST - 1)))
    shutil.rmtree(tmp_path / "store")
    (tmp_path / "store").mkdir()
    with lmdb.open(str(tmp_path / "store"), max_dbs=2) as env:  # it had a tree for each table
        table = env.open_db(b"key tree")
        with env.begin(write=True) as txn:
            txn.put(b"state", bytes(16), db=table)
    with pytest.raises(RootError, match="earlier cbfs"):
        open_store(tmp_path)
    with pytest.raises(RootError, match="earlier cbfs"), salvaging(tmp_path, SYSTEM_RANDOM):
        pass


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (bytes(32), "earlier cbfs"),
        (b"cbfs root file 1".ljust(8_192, b"\0"), "earlier cbfs"),
        (bytes(4_096) + b"cbfs root file 2".ljust(4_096, b"\0"), "earlier cbfs"),
        (b"", "damaged"),
        (bytes(8_192), "damaged"),
    ],
)
def test_a_root_file_that_is_none_is_told(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "root.key").write_bytes(data)
    with pytest.raises(RootError, match=message):
        open_store(tmp_path)


def test_every_flipped_bit_of_a_root_file_is_found(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.write(lambda writer: writer.put(Table.META, b"a", OLD))
    store.close()
    path = tmp_path / "root.key"
    whole = path.read_bytes()
    used = [i for i, byte in enumerate(whole) if byte]
    for place in used[:: max(1, len(used) // 50)]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(RootError):
            open_store(tmp_path)
    path.write_bytes(whole)
    again = open_store(tmp_path)
    assert contents(again) == {b"a": OLD}
    again.close()


def test_a_change_that_raises_leaves_nothing_and_others_of_its_group_all(tmp_path: Path) -> None:
    async def main() -> None:
        store = open_store(tmp_path)

        def bad(writer: Writer) -> None:
            writer.put(Table.META, b"a", OLD)
            raise KeyError("mine")

        outcomes: list[object] = []

        async def commit(work: Callable[[Writer], None]) -> None:
            try:
                await store.commit(work)
                outcomes.append(None)
            except KeyError as error:
                outcomes.append(error)

        async with trio.open_nursery() as nursery:
            for work in (bad, lambda writer: writer.put(Table.META, b"b", NEW)):
                nursery.start_soon(commit, work)
            await trio.testing.wait_all_tasks_blocked()
            await nursery.start(store.run)
            while len(outcomes) < 2:
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        assert {type(outcome) for outcome in outcomes} == {KeyError, type(None)}
        assert contents(store) == {b"b": NEW}
        store.close()

    trio.run(main)


def test_no_commit_waits_for_ever_where_the_committer_is_cancelled() -> None:
    """Not one that came while the last group was written, nor one that comes after all."""
    applied: list[str] = []
    begun, go_on = threading.Event(), threading.Event()

    def transact(group: list[Pending[None, None]]) -> None:
        begun.set()
        go_on.wait(WAIT)
        for pending in group:
            pending.change(None)

    async def main() -> None:
        commits = GroupCommit[None](transact, OSError)

        async def cancel(scope: trio.CancelScope) -> None:
            await trio.to_thread.run_sync(begun.wait, WAIT)
            nursery.start_soon(commits.commit, lambda _writer: applied.append("second"))
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            go_on.set()

        with trio.fail_after(WAIT):
            async with trio.open_nursery() as nursery, trio.open_nursery() as inner:
                await inner.start(commits.run)
                nursery.start_soon(commits.commit, lambda _writer: applied.append("first"))
                inner.start_soon(cancel, inner.cancel_scope)
            await commits.commit(lambda _writer: applied.append("third"))

    trio.run(main)
    assert applied == ["first", "second", "third"]


def test_a_reader_sees_its_time_while_the_root_turns(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.write(lambda writer: writer.put(Table.META, b"a", OLD))
    with store.read() as reader:
        store.write(lambda writer: writer.put(Table.META, b"a", NEW))
        store.write(lambda writer: writer.put(Table.META, b"b", NEW))
        assert reader.get(Table.META, b"a") == OLD
        assert reader.get(Table.META, b"b") is None
    assert contents(store) == {b"a": NEW, b"b": NEW}
    assert set(store._known) == {store._now}, "no root is kept that nobody reads with"
    store.close()


def test_a_reader_between_the_commit_and_the_turn_takes_no_root_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, turn = open_store(tmp_path), Store._turn

    def slow(self: Store, *how: object) -> None:
        with self.read() as reader:
            assert reader.get(Table.META, b"a") == NEW
        turn(self, *how)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "_turn", slow)
    for _ in range(2):
        store.write(lambda writer: writer.put(Table.META, b"a", NEW))
    store.close()
