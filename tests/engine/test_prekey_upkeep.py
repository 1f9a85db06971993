"""How prekeys are kept up, against a home server that answers as the test wants."""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count, pairwise
from pathlib import Path

import pytest
import trio
import trio.testing

from cbfs.account.account import SYSTEM_RANDOM, make_account, opened_store
from cbfs.account.passphrase import Guard
from cbfs.account.settings import Configuration
from cbfs.contacts.prekey_secrets import LIFETIME
from cbfs.contacts.sessions import Sessions
from cbfs.context import Context, make_context, make_directory
from cbfs.network.dial import LoopbackDialer
from cbfs.network.link import Link, Replies, ServerRefused
from cbfs.network.pacing import PacedDialer
from cbfs.problems import Problems
from cbfs.receiving.prekeys import top_up
from cbfs.storage.store import Table
from cbfs_common.limits import PREKEY_SECRETS_MAX, PREKEYS_ONE_TIME
from cbfs_common.primitives import Random, dh_public
from cbfs_common.profile import Address
from cbfs_common.session.prekey import PrekeyKind, PrekeyPair, decode_prekey, make_prekey
from cbfs_common.wire.fields import Done
from cbfs_common.wire.requests import (
    AnyReply,
    AnyRequest,
    Code,
    CountPrekeys,
    ErrorReply,
    PrekeyCount,
    UploadPrekeys,
    decode_request,
    encode,
)
from cbfs_common.wire.transport import ClientConnection
from tests.support.names_naive import make_policy


class Server(Link):
    """A link whose server has no prekeys and asks the test what to answer to an upload."""

    def __init__(self, answer: Callable[[UploadPrekeys], AnyReply]) -> None:
        stream, _ = trio.testing.memory_stream_pair()
        key = SYSTEM_RANDOM.token(32)
        super().__init__(stream, ClientConnection(dh_public(key), key, SYSTEM_RANDOM), 1)
        self._answer = answer
        self.records: list[bytes] = []
        self.uploads: list[int] = []
        """How many came at once, each time."""

    async def call_in_order(self, payloads: Iterable[Callable[[], bytes | None]]) -> Replies:
        asked = [decode_request(data) for each in payloads if (data := each()) is not None]
        if any(isinstance(each, UploadPrekeys) for each in asked):
            self.uploads.append(len(asked))
        return [encode(self._reply(each)) for each in asked]

    def _reply(self, asked: AnyRequest) -> AnyReply:
        if isinstance(asked, CountPrekeys):
            return self._count()
        assert isinstance(asked, UploadPrekeys)
        self.records += asked.records
        return self._answer(asked)

    def _count(self) -> PrekeyCount:
        return PrekeyCount(0, 0)


@asynccontextmanager
async def account(directory: Path) -> AsyncIterator[Context]:
    with opened_store(directory, SYSTEM_RANDOM, create=Guard) as store:
        server = Address(dh_public(SYSTEM_RANDOM.token(32)), "127.0.0.1", 1)
        made = make_account("alice", server, make_policy(server).encode(), SYSTEM_RANDOM)
        configuration = Configuration(store)
        dialer = PacedDialer(LoopbackDialer(), configuration, SYSTEM_RANDOM)
        async with trio.open_nursery() as nursery:
            await nursery.start(store.run)
            names = make_directory(store, made, dialer)
            problems = Problems(lambda: None)
            yield make_context(store, made, configuration, names, dialer, problems)
            nursery.cancel_scope.cancel()


def test_prekeys_go_up_all_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with account(tmp_path / "a") as context:
            server = Server(lambda asked: Done())
            await top_up(server, context)
            assert len(server.uploads) == 1, "no upload waits for the answer to another"
            assert len(server.records) == PREKEYS_ONE_TIME + 1
            with context.store.read() as reader:
                kept = set(reader.keys(Table.PREKEYS))
            assert {record[:16] for record in server.records} == kept

    trio.run(main)


def test_a_refused_upload_is_the_servers_word(tmp_path: Path) -> None:
    def answer(asked: UploadPrekeys) -> AnyReply:
        return ErrorReply(Code.TROUBLE) if len(asked.records) == 1 else Done()

    async def main() -> None:
        async with account(tmp_path / "a") as context:
            with pytest.raises(ServerRefused) as caught:
                await top_up(Server(answer), context)
            assert caught.value.code is Code.TROUBLE

    trio.run(main)


class Strange(Server):
    """A home server that gives away prekeys whose secrets the client does not have."""

    def _count(self) -> PrekeyCount:
        return PrekeyCount(30, 2**40)


def test_prekeys_that_nobody_has_the_secrets_of_are_replaced(tmp_path: Path) -> None:
    async def main() -> None:
        async with account(tmp_path / "a") as context:
            replaced: list[bool] = []

            def answer(asked: UploadPrekeys) -> AnyReply:
                replaced.append(asked.replace)
                return Done()

            server = Strange(answer)
            await top_up(server, context)
            assert replaced[0]
            assert sum(replaced) == 1
            assert len(server.records) == PREKEYS_ONE_TIME + 1

    trio.run(main)


class Liar(Server):
    """A home server that says again and again that it has so many prekeys."""

    says = PrekeyCount(0, 0)

    def _count(self) -> PrekeyCount:
        return self.says


@pytest.mark.parametrize("says", [(0, 0), (1_000, 0), (0, 1), (1_000, 2**40)])
def test_a_server_that_lies_about_its_prekeys_makes_none_be_forgotten(
    says: tuple[int, int], tmp_path: Path
) -> None:
    """Some of those that it has taken may be in others' hands."""

    async def main() -> None:
        async with account(tmp_path / "a") as context:
            server = Liar(lambda asked: Done())
            await top_up(server, context)
            first = set(context.sessions.prekeys.pairs)
            server.says = PrekeyCount(*says)
            for _ in range(120):
                await top_up(server, context)
            assert first <= context.sessions.prekeys.pairs.keys()
            assert len(context.sessions.prekeys.pairs) <= PREKEY_SECRETS_MAX // 2 + 1

    trio.run(main)


DAY = 86_400
HOUR = 3_600_000
ALWAYS = [(0, 0), (1_000, 0), (0, 1), (1_000, 2**40), (30, 2**40)]


@pytest.mark.parametrize("says", ALWAYS)
def test_what_is_kept_of_prekeys_is_bounded_whatever_a_server_says(
    says: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For three weeks, asked four times a day. All are replaced once a day at most."""
    pair = make_prekey(SYSTEM_RANDOM, PrekeyKind.ONE_TIME, 0)
    numbers = count()

    def quick(_random: Random, kind: PrekeyKind, expires: int) -> PrekeyPair:
        id_ = next(numbers).to_bytes(16, "big")
        terms = id_ + bytes([kind]) + expires.to_bytes(8, "big") + pair.terms[25:]
        return replace(pair, id=id_, kind=kind, expires=expires, terms=terms)

    monkeypatch.setattr("cbfs.receiving.prekeys.make_prekey", quick)

    async def main() -> None:
        async with account(tmp_path / "a") as made:
            now = made.clock()
            context = replace(made, clock=lambda: now)
            replaced: list[int] = []

            def answer(asked: UploadPrekeys) -> AnyReply:
                if asked.replace:
                    replaced.append(now // HOUR)
                return Done()

            server = Liar(answer)
            for _ in range(22 * 4):
                now += 6 * HOUR
                await top_up(server, context)
                server.says = PrekeyCount(*says)
                await context.sessions.tidy(context.store, context.clock() // 1_000)
                assert len(context.sessions.prekeys.pairs) <= PREKEY_SECRETS_MAX
            pauses = [later - earlier for earlier, later in pairwise(replaced)]
            assert all(24 <= pause <= 7 * 24 + 6 for pause in pauses)
            assert bool(replaced) == (says != (0, 0)), "there is nothing to replace, it says"

    trio.run(main)


def test_an_honest_server_has_prekeys_of_this_week_and_every_secret_goes(tmp_path: Path) -> None:
    """Each secret is there for as long as its prekey may be in somebody's hands, and no longer
    than it takes."""

    async def main() -> None:
        async with account(tmp_path / "a") as made:
            start, days = made.clock() // 1_000, 0
            context = replace(made, clock=lambda: (start + days * DAY) * 1_000)
            server = Honest(lambda asked: Done())
            first: dict[bytes, PrekeyPair] = {}
            gone: dict[PrekeyKind, set[int]] = {kind: set() for kind in PrekeyKind}
            for days in range(60):
                await top_up(server, context)
                await context.sessions.tidy(context.store, context.clock() // 1_000)
                first = first or dict(context.sessions.prekeys.pairs)
                kept = context.sessions.prekeys.pairs
                gone_now = [pair.kind for pair in first.values() if pair.id not in kept]
                for kind in PrekeyKind:
                    if kind in gone_now:
                        gone[kind].add(days)
                assert {record[:16] for record in server.kept} <= kept.keys()
                assert all(made_at(record) > start + (days - 7) * DAY - 1 for record in server.kept)
                assert len([r for r in server.kept if r[16] == PrekeyKind.ONE_TIME]) == 100
            # expired after 14 days, and kept for as many more, as far as there is room
            assert 21 <= min(gone[PrekeyKind.ONE_TIME]) <= 29
            # renewed after 7 days, and kept for 14 more
            assert min(gone[PrekeyKind.LAST_RESORT]) == 8 + 14 + 1

    trio.run(main)


def test_without_a_secret_all_are_replaced_at_once(tmp_path: Path) -> None:
    """An account that was restored, less than a day after all were replaced."""

    async def main() -> None:
        async with account(tmp_path / "a") as context:
            server = Honest(lambda asked: Done())
            await top_up(server, context)
            await context.store.commit(lambda writer: writer.delete_prefix(Table.PREKEYS, b""))
            sessions = Sessions(context.store, context.account.party, SYSTEM_RANDOM)
            restored = replace(context, sessions=sessions)
            await top_up(server, restored)
            assert {record[:16] for record in server.kept} == restored.sessions.prekeys.pairs.keys()
            assert len(server.kept) == PREKEYS_ONE_TIME + 1

    trio.run(main)


class Honest(Server):
    """A home server that keeps what it is given, and gives nothing away."""

    def __init__(self, answer: Callable[[UploadPrekeys], AnyReply]) -> None:
        super().__init__(answer)
        self.kept: list[bytes] = []

    def _reply(self, asked: AnyRequest) -> AnyReply:
        if isinstance(asked, UploadPrekeys):
            last = any(record[16] == PrekeyKind.LAST_RESORT for record in asked.records)
            self.kept = [
                record
                for record in self.kept
                if not asked.replace and not (last and record[16] == PrekeyKind.LAST_RESORT)
            ]
            self.kept += asked.records
        return super()._reply(asked)

    def _count(self) -> PrekeyCount:
        prekeys = [decode_prekey(record) for record in self.kept]
        last = [p.expires for p in prekeys if p.kind is PrekeyKind.LAST_RESORT]
        return PrekeyCount(len(prekeys) - len(last), max(last, default=0))


def made_at(record: bytes) -> int:
    prekey = decode_prekey(record)
    return prekey.expires - LIFETIME[prekey.kind]
