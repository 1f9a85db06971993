"""The client's sessions and prekeys in their store."""

from pathlib import Path

import trio

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.contacts.sessions import Sessions
from cbfs.storage.store import Table
from cbfs_common.limits import (
    LAST_RESORT_GRACE,
    LAST_RESORT_LIFETIME,
    LAST_RESORT_RENEWAL,
    PREKEY_GRACE,
)
from cbfs_common.primitives import KemKey, dh_public
from cbfs_common.session.prekey import PrekeyKind, make_prekey
from cbfs_common.session.session import Party
from tests.support.stores import open_store

NOW = 2_000_000_000


def test_prekeys_are_forgotten_when_nobody_can_use_them_any_more(tmp_path: Path) -> None:
    async def main() -> None:
        store = open_store(tmp_path)
        late, fresh = (
            make_prekey(SYSTEM_RANDOM, PrekeyKind.ONE_TIME, expires)
            for expires in (NOW - PREKEY_GRACE - 1, NOW - PREKEY_GRACE + 1)
        )
        for pair in (late, fresh):
            record = pair.encode()
            store.write(lambda w, p=pair, r=record: w.put(Table.PREKEYS, p.id, r))  # type: ignore[misc]
        me = Party(bytes(32), bytes(range(32)), dh_public(bytes(range(32))), KemKey(bytes(64)))
        sessions = Sessions(store, me, SYSTEM_RANDOM)
        async with trio.open_nursery() as nursery:
            await nursery.start(store.run)
            await sessions.tidy(store, NOW)
            nursery.cancel_scope.cancel()
        assert set(sessions.prekeys.pairs) == {fresh.id}
        with store.read() as reader:
            assert list(reader.keys(Table.PREKEYS)) == [fresh.id]
        store.close()

    trio.run(main)


def test_a_last_resort_prekey_goes_two_weeks_after_its_successor_came(tmp_path: Path) -> None:
    async def main() -> None:
        store = open_store(tmp_path)
        made = NOW - LAST_RESORT_GRACE
        first, second = (
            make_prekey(SYSTEM_RANDOM, PrekeyKind.LAST_RESORT, at + LAST_RESORT_LIFETIME)
            for at in (made - LAST_RESORT_RENEWAL, made)
        )
        for pair in (first, second):
            record = pair.encode()
            store.write(lambda w, p=pair, r=record: w.put(Table.PREKEYS, p.id, r))  # type: ignore[misc]
        me = Party(bytes(32), bytes(range(32)), dh_public(bytes(range(32))), KemKey(bytes(64)))
        sessions = Sessions(store, me, SYSTEM_RANDOM)
        async with trio.open_nursery() as nursery:
            await nursery.start(store.run)
            await sessions.tidy(store, NOW)
            assert set(sessions.prekeys.pairs) == {first.id, second.id}
            await sessions.tidy(store, NOW + 1)
            assert set(sessions.prekeys.pairs) == {second.id}
            nursery.cancel_scope.cancel()
        store.close()

    trio.run(main)
