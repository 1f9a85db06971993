"""An account that has ended at the home server is made anew, and nothing else follows from that."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from cbfs.account.account import Account
from cbfs.account.settings import Configuration
from cbfs.engine.engine import Engine
from cbfs.engine.running import running
from cbfs.network.link import ServerRefused, request
from cbfs.receiving import signing_up
from cbfs.receiving.signing_up import AGAIN_PAUSE, TOLD, Again
from cbfs_common.limits import PREKEYS_ONE_TIME
from cbfs_common.wire.fields import Done
from cbfs_common.wire.requests import (
    Code,
    CountPrekeys,
    CreateAccount,
    DeleteAccount,
    ErrorReply,
    GetTerms,
    NewcomerTerms,
    decode_request,
    encode,
)
from tests.engine.test_copies_at_work import (
    at_home,
    connected,
    exchange,
    is_copy,
    of,
    sessions,
    talked,
    two,
)
from tests.engine.test_engine import NO_TOR, until
from tests.engine.test_prekey_upkeep import account
from tests.support.world import WAIT, World, run, world


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cbfs.receiving.receiver.PROMPT_AFTER", 0.2)
    monkeypatch.setattr("cbfs.receiving.mailbox.PREKEY_CHECK", 0.5)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("here")) as made:
        yield made


async def prekeys(place: Path) -> int:
    async with at_home(of(place)) as link:
        return (await request(link, CountPrekeys())).one_time


async def end(place: Path) -> None:
    async with at_home(of(place)) as link:
        assert await request(link, DeleteAccount()) == Done()


async def topped_up(owner: Account) -> None:
    with trio.fail_after(WAIT):
        async with at_home(owner) as link:
            while (await request(link, CountPrekeys())).one_time < PREKEYS_ONE_TIME:
                await trio.sleep(0.02)


def told(engine: Engine) -> bool:
    return TOLD in engine.report().problems


@pytest.mark.parametrize("how", ["connected", "polled"])
def test_it_is_made_anew_and_all_goes_on(
    here: World, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, bob = two(here, tmp_path, (f"al-{how}", f"bo-{how}"))
    trio.run(talked, alice, bob, "hello")
    before, mailbox = sessions(bob), of(bob)
    if how == "polled":
        monkeypatch.setattr(Configuration, "pace", 1.0)

    async def body() -> None:
        async with at_home(mailbox) as link:
            assert await request(link, DeleteAccount()) == Done()
        async with running(alice, NO_TOR) as a, running(bob, NO_TOR) as b:
            await until(lambda: told(b), "its status to say so")
            assert not told(a)
            assert not is_copy(b)
            await exchange(a, b, "again")
            assert not b.stopped
            await topped_up(mailbox)

    trio.run(body)
    assert before <= sessions(bob), "no session was given up"


def test_it_is_made_anew_while_the_account_is_at_work(here: World, tmp_path: Path) -> None:
    alice, bob = two(here, tmp_path, ("alma", "boris"))
    mailbox = of(bob)

    async def body() -> None:
        async with running(alice, NO_TOR) as a, running(bob, NO_TOR) as b:
            await connected(b)
            async with at_home(mailbox) as link:
                await request(link, DeleteAccount())
            await until(lambda: told(b), "its status to say so")
            await exchange(a, b, "hello")

    trio.run(body)


def test_the_command_makes_it_anew(here: World, tmp_path: Path) -> None:
    _, bob = two(here, tmp_path, ("adele", "bruno"))
    trio.run(end, bob)
    (tmp_path / "invite").write_text("cbfs-server-invite:aaaa\n")
    words = ("sign-up", "--account", bob, "--no-tor")
    wrong = run("cbfs", *words, "--server-invite", tmp_path / "invite")
    assert wrong.returncode == 1
    assert "hint: " in wrong.stderr
    for _ in range(2):  # again is no error
        done = run("cbfs", *words)
        assert done.returncode == 0, done.stderr
        assert "There is an account at " in done.stdout
    assert trio.run(prekeys, bob) == 0


class Forgetful:
    """A home server that forgets each account at once, and asks for work."""

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self.made = 0

    async def call(self, payload: bytes) -> bytes:
        match decode_request(payload):
            case CreateAccount(_, b""):
                return encode(ErrorReply(Code.WORK_NEEDED))
            case CreateAccount():
                self.made += 1
                return encode(Done())
            case GetTerms():
                return encode(NewcomerTerms(False, bytes(16), self._bits))
        raise AssertionError


def test_a_server_that_forgets_it_each_time_is_worked_for_once_an_hour(tmp_path: Path) -> None:
    async def main() -> None:
        async with account(tmp_path / "a") as context:
            again, link = Again(context, lambda _: None), Forgetful(4)
            gone = ServerRefused(Code.NO_ACCOUNT)
            for made in 1, 2:
                await again.make(link, gone)  # type: ignore[arg-type]
                for _ in range(3):
                    with pytest.raises(ServerRefused):
                        await again.make(link, gone)  # type: ignore[arg-type]
                assert link.made == made
                await trio.sleep(AGAIN_PAUSE)
            with pytest.raises(ServerRefused) as other:
                await again.make(link, ServerRefused(Code.TROUBLE))  # type: ignore[arg-type]
            assert other.value.code is Code.TROUBLE

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.01))


def test_nothing_is_done_unasked_for_a_server_that_asks_for_much(tmp_path: Path) -> None:
    async def main() -> None:
        async with account(tmp_path / "a") as context:
            again, link = Again(context, lambda _: None), Forgetful(signing_up.ALONE_BITS_MAX + 1)
            with pytest.raises(signing_up.TooMuchWork) as much:
                await again.make(link, ServerRefused(Code.NO_ACCOUNT))  # type: ignore[arg-type]
            assert "cbfs sign-up" in much.value.hint
            assert not link.made
            assert context.problems.of("account") == ""

    trio.run(main)
