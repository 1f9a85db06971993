"""How prekeys are kept up, against a home server that answers as the test wants."""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from cbfs.account.account import SYSTEM_RANDOM, make_account, opened_store
from cbfs.account.passphrase import Guard
from cbfs.account.settings import Configuration
from cbfs.context import Context, make_context, make_directory
from cbfs.network.dial import LoopbackDialer
from cbfs.network.link import Link, Replies, ServerRefused
from cbfs.network.pacing import PacedDialer
from cbfs.problems import Problems
from cbfs.receiving.prekeys import top_up
from cbfs.storage.store import Table
from cbfs_common.limits import PREKEYS_ONE_TIME
from cbfs_common.primitives import dh_public
from cbfs_common.profile import Address
from cbfs_common.wire.requests import (
    AnyReply,
    AnyRequest,
    Code,
    CountPrekeys,
    Done,
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
    says: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some of those that it has taken may be in others' hands."""
    monkeypatch.setattr("cbfs.receiving.prekeys.PREKEY_SECRETS_MAX", 300)

    async def main() -> None:
        async with account(tmp_path / "a") as context:
            server = Liar(lambda asked: Done())
            await top_up(server, context)
            first = set(context.sessions.pairs)
            server.says = PrekeyCount(*says)
            for _ in range(120):
                await top_up(server, context)
            assert first <= context.sessions.pairs.keys()
            assert len(context.sessions.pairs) <= 300

    trio.run(main)
