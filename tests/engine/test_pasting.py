"""A line that was pasted is used, whatever comes between, and however late. Real servers."""

import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from cbfs.account.account import SYSTEM_RANDOM, Account, load_account, opened_store
from cbfs.account.awaited import Awaited, await_
from cbfs.account.pasted import PASTED_MAX, Pasted, decode_pasted, paste, pasted
from cbfs.contacts.contact import How
from cbfs.engine import awaiting, pasting
from cbfs.engine.by_line import OtherKeys
from cbfs.engine.engine import Engine
from cbfs.engine.running import running
from cbfs.network.dial import LoopbackDialer
from cbfs.network.drop import answer, at_drop, claim, come, look, put
from cbfs.network.link import Link, ServerRefused
from cbfs.network.options import NetworkOptions
from cbfs.problems import Refused
from cbfs.receiving.signing_up import sign_up
from cbfs.storage.encoding import pack
from cbfs_common.errors import CbfsError, DecodeError
from cbfs_common.limits import LINE_DAYS, LINE_SALT_SIZE
from cbfs_common.newcomers import parse_server_invite
from cbfs_common.wire.lines import InviteLine, InviteRecord, LineArrival, line_to, parse_line
from cbfs_common.wire.requests import Code
from tests.support.host import RunningHost, init_by
from tests.support.serving import TIMEOUT
from tests.support.world import run


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHost]:
    hosting = RunningHost(tmp_path_factory.mktemp("of") / "host", "--no-tor")
    yield hosting
    assert hosting.end() == 0, hosting.log.read_text()


@pytest.fixture(scope="module")
def maker(host: RunningHost, tmp_path_factory: pytest.TempPathFactory) -> Account:
    return made(host, tmp_path_factory.mktemp("of") / "maker")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has failed is tried again at once."""
    monkeypatch.setattr(awaiting, "LOOK_FIRST", 0.01)
    monkeypatch.setattr(awaiting, "LOOK_LAST", 0.01)


def made(host: RunningHost, place: Path) -> Account:
    done = init_by(host.invite(place.name), place)
    assert done.returncode == 0, done.stderr
    with opened_store(place, SYSTEM_RANDOM) as store:
        account = load_account(store)
    assert account
    return account


def laid(host: RunningHost, maker: Account, expires: int) -> tuple[InviteLine, InviteRecord]:
    """A line of this person, and what lies for it."""
    record = InviteRecord(
        SYSTEM_RANDOM.token(LINE_SALT_SIZE),
        expires,
        maker.policy,
        inviter=maker.name,
        identity=maker.profile.identity(maker.person),
        contact=True,
    )
    line = line_to(parse_line(host.invite()).address, record)
    done = run("cbfs-server", "invite", "--data", host.place / "server")
    invite = parse_server_invite(done.stdout.strip()).invite

    async def lay() -> None:
        async with at_drop(LoopbackDialer(), line, SYSTEM_RANDOM) as link:
            await sign_up(link, line.drop, SYSTEM_RANDOM, invite)
            await put(link, line, record)

    trio.run(lay)
    return line, record


def at(
    line: InviteLine, step: Callable[[Link], Awaitable[LineArrival | None]]
) -> LineArrival | None:
    """What somebody does who has the line."""

    async def main() -> LineArrival | None:
        async with at_drop(LoopbackDialer(), line, SYSTEM_RANDOM) as link:
            return await step(link)

    return trio.run(main)


def told(line: InviteLine) -> LineArrival | None:
    return at(line, lambda link: come(link, line))


def left(engine: Engine) -> list[Pasted]:
    with engine.store.read() as reader:
        return list(pasted(reader))


def working(place: Path, until: Callable[[Engine], bool], text: str = "") -> set[str]:
    """The contacts of an account that has worked, and in which a line is pasted, until that."""

    async def main() -> set[str]:
        async with running(place, NetworkOptions(no_tor=True)) as engine:
            if text:
                await engine.people.add(text)
            with trio.fail_after(TIMEOUT):
                while not until(engine):
                    await trio.sleep(0.01)
            assert all(each.how is How.LINE for each in engine.people.contacts())
            return {each.name for each in engine.people.contacts()}

    return trio.run(main)


def arrival_of(account: Account) -> LineArrival:
    return LineArrival(account.name, account.profile.identity(account.person))


@pytest.mark.parametrize("met", [False, True])
def test_what_a_line_is_used_for_is_finished_when_it_is_too_old(
    host: RunningHost, maker: Account, tmp_path: Path, *, met: bool
) -> None:
    """The mark is one's own: nobody else can use it any more."""
    place = tmp_path / f"late-{int(met)}"
    account = made(host, place)
    line, record = laid(host, maker, int(time.time()) - 9)

    async def mark(link: Link) -> None:
        await claim(link, line, account.user_id)

    at(line, mark)
    one = Pasted(line, 5, record, met)
    with opened_store(place, SYSTEM_RANDOM) as store:
        store.write(lambda writer: paste(writer, one))
    assert working(place, lambda engine: not left(engine)) == (set() if met else {"maker"})
    assert told(line) == arrival_of(account)


def test_who_has_made_a_line_is_told_after_a_crash(
    host: RunningHost, maker: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "crasher"
    account = made(host, place)
    line, record = laid(host, maker, int(time.time()) + 9_999)

    async def full(_link: Link, _line: InviteLine, _come: LineArrival) -> None:
        raise ServerRefused(Code.MAILBOX_FULL)

    def waits(engine: Engine) -> bool:
        return any("is not told yet" in each for each in engine.report().problems)

    monkeypatch.setattr(pasting, "answer", full)
    assert working(place, waits, line.text()) == {"maker"}
    assert told(line) is None
    with opened_store(place, SYSTEM_RANDOM) as store, store.read() as reader:
        (one,) = pasted(reader)
    assert (one.line, one.record, one.met) == (line, record, True)
    monkeypatch.setattr(pasting, "answer", answer)
    assert working(place, lambda engine: not left(engine)) == {"maker"}
    assert told(line) == arrival_of(account)


def test_a_server_that_is_busy_is_asked_again(
    host: RunningHost, maker: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "patient"
    account = made(host, place)
    line, _record = laid(host, maker, int(time.time()) + 9_999)
    asked: list[bytes] = []

    async def busy(link: Link, line: InviteLine, user: bytes) -> None:
        asked.append(user)
        if len(asked) < 3:
            raise ServerRefused(Code.FULL)
        await claim(link, line, user)

    monkeypatch.setattr(pasting, "claim", busy)
    assert working(place, lambda engine: not left(engine), line.text()) == {"maker"}
    assert asked == [account.user_id] * 3
    assert told(line) == arrival_of(account)


def test_what_is_known_to_be_wrong_is_said_at_once(host: RunningHost, tmp_path: Path) -> None:
    place = tmp_path / "hasty"
    made(host, place)
    own = InviteLine(parse_line(host.invite()).address, bytes(20))
    with opened_store(place, SYSTEM_RANDOM) as store:
        store.write(lambda writer: await_(writer, Awaited(own, int(time.time()) + 9_999)))

    async def main() -> None:
        async with running(place, NetworkOptions(no_tor=True)) as engine:
            for text, why in ((own.text(), "your own"), (own.text()[:-1], "mistyped"), ("x", "no")):
                with pytest.raises(Refused, match=why):
                    await engine.people.add(text)
            assert left(engine) == []

    trio.run(main)


def test_no_more_lines_are_worked_on_than_there_is_room_for(
    host: RunningHost, maker: Account, tmp_path: Path
) -> None:
    """And one that is worked on stays as it is when it is pasted again."""
    place = tmp_path / "greedy"
    made(host, place)
    line, record = laid(host, maker, int(time.time()) + LINE_DAYS * 86_400)
    first = Pasted(line, 5, record, met=True)
    with opened_store(place, SYSTEM_RANDOM) as store:
        store.write(lambda writer: paste(writer, first))
        for number in range(1, PASTED_MAX):
            one = Pasted(replace(line, secret=number.to_bytes(20, "big")), 5)
            store.write(lambda writer, one=one: paste(writer, one))  # type: ignore[misc]
        store.write(lambda writer: paste(writer, Pasted(line, 6)))
        with pytest.raises(CbfsError, match="worked on"):
            store.write(lambda writer: paste(writer, Pasted(replace(line, secret=b"x" * 20), 5)))
        with store.read() as reader:
            found = list(pasted(reader))
    assert len(found) == PASTED_MAX
    assert first in found

    good = first.encode()
    assert decode_pasted(good) == first
    text, plain = line.text(), record.encode()
    other = replace(record, expires=5).encode()
    for wrong in (
        good[:-1],
        pack(text, 5, plain, 2),
        pack(text, 5, b"", 1),
        pack(text, -1, plain, 1),
        pack(text, 5, other, 1),
        pack(text[:-1], 5, plain, 1),
        pack(text, 5, plain, True),
        pack(text, 5, plain),
    ):
        with pytest.raises(DecodeError):
            decode_pasted(wrong)


def test_who_looks_at_a_line_that_is_pasted_finds_who_uses_it(
    host: RunningHost, maker: Account, tmp_path: Path
) -> None:
    place = tmp_path / "user"
    account = made(host, place)
    line, _record = laid(host, maker, int(time.time()) + 9_999)
    working(place, lambda engine: not left(engine), line.text())
    marks: list[bytes] = []

    async def step(link: Link) -> None:
        marks.append((await look(link, line, time.time())).mark)

    at(line, step)
    assert marks == [line.mark(account.user_id)]


def test_what_comes_to_be_known_meanwhile_is_not_undone(host: RunningHost, tmp_path: Path) -> None:
    """Between that somebody is looked up, and that they are kept, a server is asked."""
    place, amy = tmp_path / "albert", made(host, tmp_path / "amy")
    own = made(host, place)
    identity = amy.profile.identity(amy.person)

    async def meanwhile() -> None:
        async with running(place, NetworkOptions(no_tor=True)) as engine:
            contacts, people = engine._context.contacts, engine.people._by_line()
            found = await people.find(None, "amy", identity)
            newer = replace(found.entry, version=found.entry.version + 1)
            await contacts.learn("amy", newer, How.BUNDLE)
            await people.keep(found)
            known = contacts.named("amy")
            assert (known.entry, known.how) == (newer, How.LINE)

            other = replace(newer, profile=own.profile.encode())
            await contacts.learn("amy", other, How.BUNDLE)
            with pytest.raises(OtherKeys, match="amy"):
                await people.keep(found)
            assert contacts.named("amy").entry == other

            await contacts.forget(["amy"], lambda writer: None)
            await people.keep(found)
            again = await people.find(None, "amy", identity)
            await contacts.offer("amy", other)
            await people.keep(again)
            assert contacts.named("amy").offered == other

    trio.run(meanwhile)
