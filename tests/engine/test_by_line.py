"""Who invited and who was invited are contacts of each other, with the keys that each has told the
other of by the line, and with no others."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
import trio

from cbfs.account.account import SYSTEM_RANDOM, Account, load_account, opened_store
from cbfs.account.awaited import (
    AWAITED_MAX,
    Awaited,
    await_,
    await_no_more,
    awaited,
    hand_over,
    handed_over,
)
from cbfs.account.spool import Spool, encode_keys, make_key
from cbfs.commands.home import handed
from cbfs.contacts.contact import Contact, How, decode_contact
from cbfs.engine import awaiting
from cbfs.engine.engine import Engine
from cbfs.engine.running import running
from cbfs.names.lookups import Lookups
from cbfs.network.dial import DialError, LoopbackDialer
from cbfs.network.drop import DROP, LineSpent, answer, at_drop, come, put
from cbfs.network.drop import come as look_for
from cbfs.network.drop import look as look_at
from cbfs.network.link import Link, open_link
from cbfs.network.options import NetworkOptions
from cbfs.network.pacing import PacedDialer
from cbfs.receiving.signing_up import sign_up
from cbfs.storage.store import Meta, Store, Table
from cbfs_common.errors import CbfsError
from cbfs_common.limits import LINE_DAYS, LINE_FINISH_DAYS, LINE_SALT_SIZE, LINE_SECRET_SIZE
from cbfs_common.names.checks import Absent, Found, NameChanged
from cbfs_common.names.entry import Entry
from cbfs_common.names.policy import Policy, parse_policy
from cbfs_common.newcomers import parse_server_invite
from cbfs_common.primitives import Random
from cbfs_common.profile import Address
from cbfs_common.wire.lines import (
    InviteLine,
    InviteRecord,
    LineArrival,
    line_to,
    parse_line,
)
from tests.support.host import RunningHost, init_by
from tests.support.serving import TIMEOUT
from tests.support.stores import open_store
from tests.support.world import run

FALSE = b"x" * 32


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHost]:
    hosting = RunningHost(tmp_path_factory.mktemp("of") / "host", "--no-tor")
    yield hosting
    assert hosting.end() == 0, hosting.log.read_text()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines are looked at all the time."""
    monkeypatch.setattr(awaiting, "LOOK_FIRST", 0.01)
    monkeypatch.setattr(awaiting, "LOOK_LAST", 0.01)
    monkeypatch.setattr(awaiting, "READ_PERIOD", 0.01)


def made(host: RunningHost, place: Path) -> Account:
    """An account, under the name of its directory."""
    done = init_by(host.invite(place.name), place)
    assert done.returncode == 0, done.stderr
    with opened_store(place, SYSTEM_RANDOM) as store:
        account = load_account(store)
    assert account
    return account


def contacts_of(place: Path) -> dict[str, Contact]:
    with opened_store(place, SYSTEM_RANDOM) as store, store.read() as reader:
        found = [decode_contact(data) for _key, data in reader.items(Table.PEERS)]
    return {contact.name: contact for contact in found}


def tool(host: RunningHost, name: str) -> str:
    done = run(f"cbfs-{name}", "invite", "--data", host.place / name)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def laid(host: RunningHost, inviter: str, identity: bytes) -> str:
    """A line whose record says that this person has invited."""
    policy = (host.place / "names" / "policy").read_text()
    record = InviteRecord(
        SYSTEM_RANDOM.token(LINE_SALT_SIZE),
        int(time.time()) + 1_000,
        policy,
        tool(host, "names"),
        tool(host, "server"),
        inviter=inviter,
        identity=identity,
    )
    line = line_to(parse_line(host.invite()).address, record)
    invite = parse_server_invite(tool(host, "server")).invite

    async def lay() -> None:
        async with open_link(LoopbackDialer(), line.address, line.key, b"", SYSTEM_RANDOM) as link:
            await sign_up(link, line.drop, SYSTEM_RANDOM, invite)
            await put(link, line, record)

    trio.run(lay)
    return line.text()


def test_who_invites_is_no_contact_under_other_keys_than_the_line_says(
    host: RunningHost, tmp_path: Path
) -> None:
    mike = made(host, tmp_path / "mike")
    identity = mike.profile.identity(mike.person)
    for name, inviter, keys in (("n1", "mike", FALSE), ("n2", "nobody-yet", identity)):
        place = tmp_path / name
        done = init_by(laid(host, inviter, keys), place, f"{name}-mike\n")
        assert done.returncode == 0, done.stderr
        assert f"other keys for {inviter} than your line says" in done.stderr
        assert contacts_of(place) == {}
    place = tmp_path / "n3"
    done = init_by(laid(host, "mike", identity), place, "n3-mike\n")
    assert done.returncode == 0, done.stderr
    assert "other keys" not in done.stderr
    assert contacts_of(place)["mike"].how is How.LINE
    assert contacts_of(place)["mike"].verified == 0


async def seen(engine: Engine) -> None:
    """Until nobody is awaited."""
    with trio.fail_after(TIMEOUT):
        while True:
            with engine.store.read() as reader:
                if not awaited(reader):
                    return
            await trio.sleep(0.02)


async def arriving(
    inviter: Path, line: InviteLine, come: LineArrival
) -> tuple[tuple[str, ...], tuple[Policy, ...]]:
    """What is wrong, and whom the inviter follows, when somebody has come who says this."""
    async with open_link(LoopbackDialer(), line.address, line.key, b"", SYSTEM_RANDOM) as link:
        await answer(link, line, come)
    async with (
        running(inviter, NetworkOptions(no_tor=True)) as engine,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(engine.people.await_invited)
        await seen(engine)
        nursery.cancel_scope.cancel()
        return engine.report().problems, engine.directories.policies()


def test_a_policy_that_comes_by_a_line_changes_no_directory_that_is_followed(
    host: RunningHost, tmp_path: Path, quick: None
) -> None:
    """Else who has read a line could have the other believe any verifiers."""
    inviter, sam = tmp_path / "trudy", made(host, tmp_path / "sam")
    mine = parse_policy(made(host, inviter).policy)
    other = replace(mine, config=b"x" * 32)
    line = parse_line(host.invite(account=inviter))
    come = LineArrival("sam", sam.profile.identity(sam.person), other.encode())
    problems, policies = trio.run(arriving, inviter, line, come)
    assert contacts_of(inviter)["sam"].how is How.LINE
    assert policies == (mine,)
    assert not any("sam" in each for each in problems)


def test_a_policy_that_the_user_adds_meanwhile_holds(host: RunningHost, tmp_path: Path) -> None:
    """Whether one is followed is seen when the policy that has come is written, and not before."""
    place = tmp_path / "yves"
    mine = parse_policy(made(host, place).policy)
    key = mine.witnesses[0][1].public
    users = replace(mine, log=replace(mine.log, name="far.example", public=key))
    came = replace(users, config=b"x" * 32)

    async def follow() -> tuple[Policy, ...]:
        async with running(place, NetworkOptions(no_tor=True)) as engine:
            await engine.directories.follow(users.encode().encode(), only_new=True)
            for each in (came, replace(mine, config=b"x" * 32)):
                await engine.directories.follow(each.encode().encode(), only_new=True)
            return engine.directories.policies()

    assert trio.run(follow) == (mine, users)


@pytest.mark.parametrize("true", [True, False])
def test_who_comes_is_no_contact_under_other_keys_than_they_have_told(
    host: RunningHost, tmp_path: Path, quick: None, *, true: bool
) -> None:
    name = f"oscar-{true}".lower()
    inviter, oscar = tmp_path / f"peggy-{true}".lower(), made(host, tmp_path / name)
    made(host, inviter)
    line = parse_line(host.invite(account=inviter))
    identity = oscar.profile.identity(oscar.person) if true else FALSE

    problems, _policies = trio.run(arriving, inviter, line, LineArrival(name, identity))
    known = contacts_of(inviter)
    if true:
        assert known[name].how is How.LINE
        assert not any(name in each for each in problems)
    else:
        assert known == {}
        assert any(f"other keys for {name}" in each for each in problems)


def knowing(place: Path, contact: Contact) -> None:
    """Let this account have a contact."""
    with opened_store(place, SYSTEM_RANDOM) as store:
        store.write(
            lambda writer: writer.put(
                Table.PEERS, writer.key_part(contact.name.encode()), contact.encode()
            )
        )


def test_a_contact_who_has_other_keys_by_now_stays_one(
    host: RunningHost, tmp_path: Path, quick: None
) -> None:
    """Their new keys follow from those that are known, which no poll has shown yet."""
    inviter, place = tmp_path / "wendy", tmp_path / "walter"
    made(host, inviter)
    before = made(host, place)
    come = LineArrival("walter", before.profile.identity(before.person))
    trio.run(arriving, inviter, parse_line(host.invite(account=inviter)), come)
    known = contacts_of(inviter)["walter"]
    invite = tmp_path / "invite"
    invite.write_text(tool(host, "server"))
    words = "--account", place, "--no-tor", "--server-invite", invite
    done = run("cbfs", "name", "rotate", *words)
    assert done.returncode == 0, done.stderr
    with opened_store(place, SYSTEM_RANDOM) as store:
        now = load_account(store)
    assert now
    assert now.profile.keys != before.profile.keys

    come = LineArrival("walter", now.profile.identity(now.person))
    knowing(inviter, replace(known, how=How.DIRECTORY))
    line = parse_line(host.invite(account=inviter))
    problems, _policies = trio.run(arriving, inviter, line, come)
    after = contacts_of(inviter)["walter"]
    assert not any("walter" in each for each in problems)
    assert after.profile.keys == now.profile.keys
    assert after.entry.version > known.entry.version
    assert (after.how, after.since) == (How.LINE, known.since)


def test_a_new_owner_of_the_name_of_a_contact_is_offered_and_no_contact(
    host: RunningHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    """Else, with a directory that lies, whoever has a line could be anybody whom one knows."""
    inviter, sybil = tmp_path / "trent", made(host, tmp_path / "sybil")
    made(host, inviter)
    come = LineArrival("sybil", sybil.profile.identity(sybil.person))
    trio.run(arriving, inviter, parse_line(host.invite(account=inviter)), come)
    known = contacts_of(inviter)["sybil"]
    before = replace(known, entry=replace(known.entry, round=known.entry.round - 1), verified=5)
    knowing(inviter, before)
    ask = Lookups.lookup

    async def changed(
        lookups: Lookups, name: str, known: Entry | None = None, *, lapsed: bool = False
    ) -> Found | Absent:
        found = await ask(lookups, name, None, lapsed=lapsed)
        if known is not None and isinstance(found, Found) and found.entry != known:
            raise NameChanged(found.entry)
        return found

    monkeypatch.setattr(Lookups, "lookup", changed)
    line = parse_line(host.invite(account=inviter))
    problems, _policies = trio.run(arriving, inviter, line, come)
    after = contacts_of(inviter)["sybil"]
    assert after.offered == known.entry
    assert (after.entry, after.verified) == (before.entry, 5)
    assert any("other keys for sybil" in each for each in problems)


def test_an_older_entry_of_a_contact_is_not_believed(
    host: RunningHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    inviter, heinz = tmp_path / "zoe", made(host, tmp_path / "heinz")
    made(host, inviter)
    come = LineArrival("heinz", heinz.profile.identity(heinz.person))
    trio.run(arriving, inviter, parse_line(host.invite(account=inviter)), come)
    known = contacts_of(inviter)["heinz"]
    newer = replace(known, entry=replace(known.entry, version=known.entry.version + 1))
    knowing(inviter, newer)
    line, again = parse_line(host.invite(account=inviter)), trio.Event()
    looks = 0

    async def look() -> None:
        async with open_link(LoopbackDialer(), line.address, line.key, b"", SYSTEM_RANDOM) as link:
            await answer(link, line, come)
        async with (
            running(inviter, NetworkOptions(no_tor=True)) as engine,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(engine.people.await_invited)
            with trio.fail_after(TIMEOUT):
                await again.wait()
            nursery.cancel_scope.cancel()

    async def count(link: Link, line: InviteLine) -> LineArrival | None:
        nonlocal looks
        looks += 1
        if looks > 1:  # the first look has ended, and was not the last one
            again.set()
        return await look_for(link, line)

    monkeypatch.setattr(awaiting, "come", count)
    trio.run(look)
    assert contacts_of(inviter)["heinz"].entry == newer.entry


def test_nobody_becomes_a_contact_of_oneself(
    host: RunningHost, tmp_path: Path, quick: None
) -> None:
    """Who has the line may tell of who has made it."""
    place = tmp_path / "ursula"
    own = made(host, place)
    line = parse_line(host.invite(account=place))
    come = LineArrival("ursula", own.profile.identity(own.person))
    problems, _policies = trio.run(arriving, place, line, come)
    assert contacts_of(place) == {}
    assert any("is you" in each for each in problems)


def test_who_is_awaited_stays_so_when_nothing_lies_there_yet(
    host: RunningHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    """And is forgotten when the line is too old."""
    inviter, looked = tmp_path / "rupert", [0]
    made(host, inviter)
    address, now = parse_line(host.invite()).address, int(time.time())
    fresh = Awaited(InviteLine(address, b"f" * LINE_SECRET_SIZE), now + 9_999)
    old = Awaited(InviteLine(address, b"o" * LINE_SECRET_SIZE), now - 9_999)

    async def count(link: Link, line: InviteLine) -> LineArrival | None:
        looked[0] += 1
        return await come(link, line)

    monkeypatch.setattr(awaiting, "come", count)
    with opened_store(inviter, SYSTEM_RANDOM) as store:
        store.write(lambda writer: await_(writer, fresh))
        store.write(lambda writer: await_(writer, old))

    async def look() -> list[Awaited]:
        async with (
            running(inviter, NetworkOptions(no_tor=True)) as engine,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(engine.people.await_invited)
            with trio.fail_after(TIMEOUT):
                found: list[Awaited] = []
                while looked[0] < 3 or len(found) != 1:
                    await trio.sleep(0.02)
                    with engine.store.read() as reader:
                        found = awaited(reader)
            nursery.cancel_scope.cancel()
        return found

    assert trio.run(look) == [fresh]


def test_what_lies_there_for_a_line_that_is_too_old_is_removed(
    host: RunningHost, tmp_path: Path, quick: None
) -> None:
    """Else whoever finds the line later could use the invites. A server that does not answer is
    asked again as long as they are good."""
    inviter, now = tmp_path / "xena", int(time.time())
    made(host, inviter)
    line = parse_line(host.invite(account=inviter))
    away = InviteLine(Address(b"k" * 32, "127.0.0.1", 1), b"a" * LINE_SECRET_SIZE)
    later = replace(away, secret=b"l" * LINE_SECRET_SIZE)
    good = Awaited(later, now - 9)
    with opened_store(inviter, SYSTEM_RANDOM) as store:
        store.write(lambda writer: await_(writer, Awaited(line, now - 9)))
        store.write(lambda writer: await_(writer, Awaited(away, now - LINE_FINISH_DAYS * 86_400)))
        store.write(lambda writer: await_(writer, good))

    async def left() -> list[Awaited]:
        async with (
            running(inviter, NetworkOptions(no_tor=True)) as engine,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(engine.people.await_invited)
            with trio.fail_after(TIMEOUT):
                found: list[Awaited] = []
                while len(found) != 1:
                    await trio.sleep(0.02)
                    with engine.store.read() as reader:
                        found = awaited(reader)
            nursery.cancel_scope.cancel()
        return found

    assert trio.run(left) == [good]

    async def again() -> None:
        async with at_drop(LoopbackDialer(), line, SYSTEM_RANDOM) as link:
            await look_at(link, line, 0)

    with pytest.RaisesGroup(LineSpent, flatten_subgroups=True, allow_unwrapped=True):
        trio.run(again)


def test_who_has_come_in_time_is_met_by_who_was_away_for_long(
    host: RunningHost, tmp_path: Path, quick: None
) -> None:
    """The inviter's computer was off from before they came until the line was too old."""
    inviter, olive = tmp_path / "winston", made(host, tmp_path / "ophelia")
    made(host, inviter)
    line = parse_line(host.invite(account=inviter))
    with opened_store(inviter, SYSTEM_RANDOM) as store:
        store.write(lambda writer: await_(writer, Awaited(line, int(time.time()) - 86_400)))
    come = LineArrival("ophelia", olive.profile.identity(olive.person))
    trio.run(arriving, inviter, line, come)
    assert contacts_of(inviter)["ophelia"].how is How.LINE


def test_no_line_is_looked_at_because_of_another_one(
    host: RunningHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    """Each has its own times, by its own age, and at each look a circuit of its own; one whose
    server does not answer holds up no other."""
    place, now = tmp_path / "victor", int(time.time())
    made(host, place)
    silent, refusing = (
        InviteLine(Address(b"k" * 32, "127.0.0.1", n), bytes([n]) * LINE_SECRET_SIZE)
        for n in (1, 2)
    )
    with opened_store(place, SYSTEM_RANDOM) as store:
        store.write(lambda writer: await_(writer, Awaited(silent, now + LINE_DAYS * 86_400)))
        store.write(lambda writer: await_(writer, Awaited(refusing, now + 9_999)))
    dialed: list[tuple[int, bytes]] = []
    enough = trio.Event()
    means: set[float] = set()

    async def dial(_self: PacedDialer, _host: str, port: int, isolation: bytes) -> NoReturn:
        if isolation.startswith(DROP):
            dialed.append((port, isolation))
            if len(dialed) > 6:
                enough.set()
            if port == 1:
                await trio.sleep_forever()
        raise DialError("it does not answer")

    def drawn(_random: Random, mean: float) -> float:
        means.add(mean)
        return 0.01

    monkeypatch.setattr(PacedDialer, "dial", dial)
    monkeypatch.setattr(awaiting, "LOOK_FIRST", 5.0)
    monkeypatch.setattr(awaiting, "LOOK_LAST", 600.0)
    monkeypatch.setattr(awaiting, "exponential", drawn)

    async def look() -> None:
        async with (
            running(place, NetworkOptions(no_tor=True)) as engine,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(engine.people.await_invited)
            with trio.fail_after(TIMEOUT):
                await enough.wait()
            nursery.cancel_scope.cancel()

    trio.run(look)
    ports = [port for port, _isolation in dialed]
    assert ports.count(1) == 1
    assert ports.count(2) >= 6
    assert len({isolation for _port, isolation in dialed}) == len(dialed)
    young, old = min(means), max(means)
    assert young < 60.0
    assert old == 600.0


def some_line(number: int = 0) -> InviteLine:
    return InviteLine(Address(b"k" * 32, "127.0.0.1", 1), number.to_bytes(LINE_SECRET_SIZE, "big"))


def test_what_is_handed_to_a_mount_is_read_by_it_alone(tmp_path: Path) -> None:
    spool, key, other = Spool(tmp_path), make_key(SYSTEM_RANDOM), make_key(SYSTEM_RANDOM)
    spool.prepare()
    spool.publish(key.public)
    one = Awaited(some_line(), 5)
    hand_over(tmp_path, one, SYSTEM_RANDOM)
    ((path, found),) = handed_over(tmp_path, (other, key))
    assert found == one
    assert one.line.secret not in path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    assert [found for _path, found in handed_over(tmp_path, (other,))] == [None]
    path.write_bytes(b"x" * 100)
    (path.parent / "foreign.line").write_bytes(b"")
    (path.parent / "link.line").symlink_to("/etc/passwd")
    assert [found for _path, found in handed_over(tmp_path, (key,))] == [None] * 3


def test_what_cannot_be_read_is_told_before_it_is_removed(
    tmp_path: Path, memory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As what was made for a key of the spool that the account has no more."""
    spool, before, key = Spool(tmp_path), make_key(SYSTEM_RANDOM), make_key(SYSTEM_RANDOM)
    spool.prepare()
    spool.publish(before.public)
    hand_over(tmp_path, Awaited(some_line(), 5), SYSTEM_RANDOM)
    store = open_store(memory)
    store.write(lambda writer: writer.put(Table.META, Meta.SPOOL_KEY, encode_keys((key,))))
    for _ in range(2):
        assert trio.run(handed._take, tmp_path, store) == ""
    (record,) = caplog.records
    assert "is not awaited" in record.getMessage()
    assert "requests/" in record.getMessage()
    assert not list(handed_over(tmp_path, (key,)))
    store.close()


def test_no_more_are_awaited_than_one_can_invite(host: RunningHost, tmp_path: Path) -> None:
    place = tmp_path / "quinn"
    made(host, place)
    with opened_store(place, SYSTEM_RANDOM) as store:
        for number in range(AWAITED_MAX):
            store.write(lambda writer, n=number: await_(writer, Awaited(some_line(n), 5)))  # type: ignore[misc]
        with pytest.raises(CbfsError, match="have not come yet"):
            store.write(lambda writer: await_(writer, Awaited(some_line(AWAITED_MAX), 5)))
        with store.read() as reader:
            assert len(awaited(reader)) == AWAITED_MAX


def test_what_cannot_be_taken_in_waits_is_told_once_and_holds_up_nothing(
    tmp_path: Path,
    memory: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spool, key = Spool(tmp_path), make_key(SYSTEM_RANDOM)
    spool.prepare()
    spool.publish(key.public)
    ones = [Awaited(some_line(number), 5) for number in range(AWAITED_MAX + 2)]
    store = open_store(memory)
    store.write(lambda writer: writer.put(Table.META, Meta.SPOOL_KEY, encode_keys((key,))))
    for one in ones[:AWAITED_MAX]:
        store.write(lambda writer, one=one: await_(writer, one))  # type: ignore[misc]
    for one in ones[AWAITED_MAX:]:
        hand_over(tmp_path, one, SYSTEM_RANDOM)

    looks = 0
    take = handed._take

    async def counted(account: Path, store: Store) -> str:
        nonlocal looks
        wrong = await take(account, store)
        looks += 1
        return wrong

    monkeypatch.setattr(handed, "_take", counted)
    monkeypatch.setattr(handed, "LOOK_PERIOD", 0.001)

    async def look() -> list[Awaited | None]:
        """What is left after some looks."""
        last = looks + 3
        with trio.fail_after(TIMEOUT):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(handed.take_lines, tmp_path, store)
                while looks < last:
                    await trio.sleep(0.001)
                nursery.cancel_scope.cancel()
        return [one for _path, one in handed_over(tmp_path, (key,))]

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(store.run)
            waiting = await look()
            assert len(waiting) == 2
            assert len(caplog.records) == 1, "and not with each look"
            await store.commit(lambda writer: await_no_more(writer, ones[0]))
            (left,) = await look()
            assert left in waiting
            nursery.cancel_scope.cancel()

    trio.run(main)
    with store.read() as reader:
        assert len(awaited(reader)) == AWAITED_MAX
    store.close()
