"""Changes that nobody waits for: they ride with the next commit, and not much longer."""

from collections.abc import Callable
from pathlib import Path

import trio
import trio.testing

from cbfs.storage.group_commit import PUT_OFF, GroupCommit, Pending
from cbfs.storage.store import Store, Table, Writer
from tests.support.stores import open_store


def put(key: bytes) -> Callable[[Writer], None]:
    return lambda writer: writer.put(Table.META, key, b"value")


def there(store: Store) -> set[bytes]:
    with store.read() as reader:
        return set(reader.keys(Table.META))


def test_what_rides_is_in_the_next_commit_and_before_the_rest_of_it(tmp_path: Path) -> None:
    async def main() -> None:
        store = open_store(tmp_path)
        async with trio.open_nursery() as nursery:
            await nursery.start(store.run)
            before = store._env.info()["last_txnid"]
            riding = store.ride(put(b"rides"))
            seen = await store.commit(lambda writer: writer.get(Table.META, b"rides"))
            await store.commit(put(b"waits"))
            assert (riding.done.is_set(), seen) == (True, b"value")
            assert store._env.info()["last_txnid"] == before + 2
            nursery.cancel_scope.cancel()
        store.close()

    trio.run(main)


def test_what_rides_waits_no_longer_than_is_said() -> None:
    applied: list[str] = []

    def transact(group: list[Pending[None, None]]) -> None:
        for pending in group:
            pending.change(None)

    async def main() -> None:
        commits = GroupCommit[None](transact, OSError)
        async with trio.open_nursery() as nursery:
            await nursery.start(commits.run)
            for number in range(2):
                began = trio.current_time()
                await commits.ride(lambda _writer: applied.append("rides")).settled()
                assert trio.current_time() == began + PUT_OFF, number
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.05))
    assert applied == ["rides"] * 2


def test_what_rides_is_written_when_the_committer_ends(tmp_path: Path) -> None:
    async def main() -> None:
        store = open_store(tmp_path)
        async with trio.open_nursery() as nursery:
            await nursery.start(store.run)
            store.ride(put(b"rides"))
            nursery.cancel_scope.cancel()
        assert b"rides" in there(store)
        store.close()

    trio.run(main)


def test_a_fault_of_what_rides_harms_nothing_else(tmp_path: Path) -> None:
    def bad(writer: Writer) -> None:
        writer.put(Table.META, b"bad", b"value")
        raise KeyError("mine")

    async def main() -> None:
        store = open_store(tmp_path)
        async with trio.open_nursery() as nursery:
            await nursery.start(store.run)
            riding = store.ride(bad)
            await store.commit(put(b"waits"))
            assert isinstance(riding.error, KeyError)
            nursery.cancel_scope.cancel()
        assert b"waits" in there(store)
        assert b"bad" not in there(store)
        store.close()

    trio.run(main)
