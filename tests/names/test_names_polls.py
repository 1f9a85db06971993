"""Polls of heads and of the change feed, over real sockets, against a directory that lies."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from cbfs.names.directory import Directory
from cbfs.names.lookups import DirectoryDown, Polled
from cbfs_common.errors import CbfsError
from cbfs_common.names.checks import Absent, Fault, Found, open_bundle
from cbfs_common.names.config import Registration, Terms
from cbfs_common.names.entry import name_index
from cbfs_common.names.faults import DirectoryLies
from cbfs_common.names.operations import OperationRefused, Refusal, decode_operation
from cbfs_common.names.policy import Policy, parse_policy
from cbfs_common.names.proofs import encode_bundle
from cbfs_common.names.registration import Invite, Token
from cbfs_common.names.wire import (
    AskChanges,
    AskConsistency,
    AskHead,
    ChangesAre,
    ConsistencyIs,
    HeadIs,
    LookedUp,
    Lookup,
    RefusedReply,
    Reply,
    Request,
    Submit,
    Submitted,
)
from cbfs_common.primitives import sign_public
from cbfs_common.profile import Address
from tests.support.names_liar import Liar
from tests.support.names_local import KEYS, LIFETIME, POLICY, Local, local
from tests.support.names_naive import (
    DIRECTORY,
    NOW,
    make_entry,
    make_policy,
)
from tests.support.names_server import Kept, answering, client

ALICE, BOB, CAROL = (make_entry(name) for name in ("alice", "bob", "carol"))


class Polling:
    """A client and the directory that it polls."""

    def __init__(self, liar: Liar, policy: Policy) -> None:
        self.liar = liar
        self.kept = Kept()
        self.marked: list[Polled] = []
        self.directory: Directory = client(policy, self.kept, lambda: float(NOW))

    async def poll(self) -> Polled:
        async def mark(polled: Polled) -> None:
            self.marked.append(polled)

        return await self.directory.lookups.poll(mark)

    async def refused(self) -> Fault:
        """A poll that is a lie changes nothing."""
        before, marked = self.kept.state, list(self.marked)
        with pytest.raises(DirectoryLies) as caught:
            await self.poll()
        assert self.kept.state == before
        assert self.marked == marked
        return caught.value.fault


def polling(
    body: Callable[[Polling], object], make: Callable[[Address], Policy] = make_policy
) -> None:
    async def go() -> None:
        liar = Liar(clock=lambda: float(NOW))
        liar.put(ALICE, BOB)
        async with answering(liar.answer) as address:
            polling = Polling(liar, make(address))
            await polling.directory.lookups.lookup("alice")
            await body(polling)  # type: ignore[misc]  # an async function

    trio.run(go)


def prefix(name: str) -> bytes:
    return name_index(DIRECTORY, name)[:8]


def test_polls_tell_what_changed_and_ask_for_no_name() -> None:
    async def body(here: Polling) -> None:
        liar = here.liar
        asked = len(liar.requests)
        assert await here.poll() == Polled()
        for _ in range(150):
            liar.put()
        liar.put(replace(BOB, version=2))
        liar.put(CAROL)
        assert await here.poll() == Polled({prefix("bob"): 152, prefix("carol"): 153})
        assert await here.poll() == Polled()
        assert here.marked[1].changed.keys() == {prefix("bob"), prefix("carol")}
        for request in liar.requests[asked:]:
            assert isinstance(request, AskHead | AskChanges)
        # a client that comes back goes on where it stopped, with requests like everybody's
        again = client(here.directory.lookups.policy, here.kept, lambda: float(NOW))
        liar.put(replace(BOB, version=3))

        async def mark(polled: Polled) -> None:
            assert polled.changed.keys() == {prefix("bob")}

        await again.lookups.poll(mark)

    polling(body)


def test_change_that_is_taken_back_between_two_polls_is_seen() -> None:
    async def body(here: Polling) -> None:
        here.liar.put(replace(BOB, version=2, profile=b"mallory's"))
        here.liar.put(BOB)
        assert (await here.poll()).changed.keys() == {prefix("bob")}

    polling(body)


def test_revert_that_is_hidden_is_a_fork() -> None:
    """The directory forgets the rounds in which it lied."""

    async def body(here: Polling) -> None:
        with here.liar.memory():
            here.liar.put(replace(BOB, version=2, profile=b"mallory's"))
            await here.poll()
        here.liar.put()
        assert await here.refused() is Fault.FORK
        with here.liar.memory():
            here.liar.put()
            assert await here.refused() is Fault.FORK
        here.liar.rounds.pop()
        assert await here.refused() is Fault.SMALLER

    polling(body)


def on_head(change: Callable[[HeadIs], Reply]) -> Callable[[Request, Reply], Reply]:
    return lambda _, reply: change(reply) if isinstance(reply, HeadIs) else reply


def on_changes(change: Callable[[bytes], bytes]) -> Callable[[Request, Reply], Reply]:
    return lambda _, reply: (
        ChangesAre(change(reply.data), reply.more) if isinstance(reply, ChangesAre) else reply
    )


def on_proof(
    change: Callable[[tuple[bytes, ...]], tuple[bytes, ...]],
) -> Callable[[Request, Reply], Reply]:
    return lambda _, reply: (
        ConsistencyIs(change(reply.proof)) if isinstance(reply, ConsistencyIs) else reply
    )


def at(time: float, liar: Liar) -> bytes:
    """The head, signed at another time."""
    return Liar(clock=lambda: time, rounds=liar.rounds, entries=liar.entries).note()


LIES: dict[str, tuple[Callable[[Liar], object], Fault]] = {
    "unsigned": (lambda liar: setattr(liar, "signers", ()), Fault.QUORUM),
    "signed by others": (lambda liar: setattr(liar, "signers", (2,)), Fault.QUORUM),
    "a cosigner twice": (lambda liar: setattr(liar, "signers", (1, 1)), Fault.MALFORMED),
    "stale": (lambda liar: setattr(liar, "clock", lambda: NOW - 400.0), Fault.STALE),
    "future": (lambda liar: setattr(liar, "clock", lambda: NOW + 90.0), Fault.FUTURE),
    "earlier than before": (lambda liar: setattr(liar, "clock", lambda: NOW - 9.0), Fault.CLOCK),
    "another round": (
        lambda liar: setattr(
            liar, "twist", on_head(lambda head: replace(head, round=liar.rounds[0].round.encode()))
        ),
        Fault.LAST_ROUND,
    ),
    "a proof too few": (
        lambda liar: setattr(
            liar, "twist", on_head(lambda head: replace(head, log_proof=head.log_proof[:-1]))
        ),
        Fault.LAST_ROUND,
    ),
    "another kind of reply": (
        lambda liar: setattr(liar, "twist", on_head(lambda _: ChangesAre(b"", False))),
        Fault.MALFORMED,
    ),
    "changes left out": (
        lambda liar: setattr(
            liar,
            "twist",
            on_changes(lambda data: data.replace(b"\x00\x01" + prefix("bob"), b"\x00\x00")),
        ),
        Fault.FEED,
    ),
    "a round left out": (
        lambda liar: setattr(
            liar, "twist", on_changes(lambda data: data[: -len(liar.rounds[-1].encode())])
        ),
        Fault.FEED,
    ),
    "no rounds": (
        lambda liar: setattr(liar, "twist", on_changes(lambda _: b"")),
        Fault.FEED,
    ),
    "garbage": (
        lambda liar: setattr(liar, "twist", on_changes(lambda _: b"garbage")),
        Fault.FEED,
    ),
    "a tile without end": (
        lambda liar: setattr(
            liar,
            "twist",
            lambda _, reply: replace(reply, more=True) if isinstance(reply, ChangesAre) else reply,
        ),
        Fault.FEED,
    ),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_false_poll_is_named_and_changes_nothing(lie: str) -> None:
    async def body(here: Polling) -> None:
        here.liar.put(replace(BOB, version=2))
        change, fault = LIES[lie]
        kept = dict(vars(here.liar))
        change(here.liar)
        assert await here.refused() is fault
        vars(here.liar).update(kept)
        assert (await here.poll()).changed.keys() == {prefix("bob")}

    polling(body)


def test_refusal_and_broken_connection_are_no_lies() -> None:
    async def body(here: Polling) -> None:
        here.liar.twist = lambda request, reply: None
        with pytest.raises(DirectoryDown):
            await here.poll()
        here.liar.twist = on_head(lambda _: RefusedReply(Refusal.TOO_MANY))
        with pytest.raises(Exception, match="too much to do"):
            await here.poll()

    polling(body)


def three_of_three(address: Address) -> Policy:
    weaker = "# cbfs-degraded group some 2 v1 v2 v3\n# cbfs-degraded quorum some\n"
    return parse_policy(make_policy(address, 3, 3).encode() + weaker)


def test_nothing_is_learnt_from_a_degraded_head() -> None:
    async def go() -> None:
        liar = Liar(clock=lambda: float(NOW), signers=(1, 2, 3))
        liar.put(ALICE, BOB)
        async with answering(liar.answer) as address:
            here = Polling(liar, three_of_three(address))
            await here.directory.lookups.lookup("alice")
            before = here.kept.state
            liar.signers = (1, 3)
            liar.put(replace(BOB, version=2))
            assert await here.poll() == Polled(degraded=True)
            assert here.kept.state == before
            found = await here.directory.lookups.lookup("alice", ALICE)
            assert isinstance(found, Found)
            assert found.degraded
            for name, known in (("alice", None), ("bob", BOB), ("carol", None)):
                with pytest.raises(DirectoryLies) as caught:
                    await here.directory.lookups.lookup(name, known)
                assert caught.value.fault is Fault.QUORUM
            liar.signers = (1,)
            assert await here.refused() is Fault.QUORUM
            liar.signers = (1, 2, 3)
            assert (await here.poll()).changed.keys() == {prefix("bob")}

    trio.run(go)


def test_quorum_of_different_heads_is_none() -> None:
    """Two verifiers have signed another head than the third."""

    async def go() -> None:
        liar = Liar(clock=lambda: float(NOW), signers=(1, 2, 3))
        liar.put(ALICE, BOB)
        async with answering(liar.answer) as address:
            here = Polling(liar, make_policy(address, 3, 3))
            await here.directory.lookups.lookup("alice")
            other = Liar(clock=liar.clock, signers=(2, 3), rounds=list(liar.rounds))
            other.put(replace(BOB, version=2))
            liar.put()
            liar.signers = (1,)
            mixed = liar.note() + b"".join(other.note().splitlines(keepends=True)[-2:])
            liar.twist = on_head(lambda head: replace(head, note=mixed))
            assert await here.refused() is Fault.SIGNATURE

    trio.run(go)


def test_far_behind_a_client_follows_in_stretches_and_asks_for_no_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It asks for sizes that it has in common with many, and knows what has changed however long it
    was away, and however busy others were meanwhile."""
    monkeypatch.setattr("cbfs.names.lookups.FOLLOW_MAX", 100)

    async def body(here: Polling) -> None:
        for number in range(350):
            here.liar.put(changed=("carol",) if number == 20 else ())
            if number == 120:
                here.liar.put(replace(BOB, version=2))
        asked = len(here.liar.requests)
        polled = await here.poll()
        assert polled.changed.keys() == {prefix("carol"), prefix("bob")}
        marked = [set(each.changed) for each in here.marked]
        assert marked == [{prefix("carol")}, {prefix("bob")}, set(), set()]
        sizes = [r.old_size for r in here.liar.requests[asked:] if isinstance(r, AskConsistency)]
        assert set(sizes) == {100, 200, 300}
        assert not any(isinstance(r, Lookup) for r in here.liar.requests[asked:])
        here.liar.put(replace(BOB, version=3))
        assert (await here.poll()).changed.keys() == {prefix("bob")}

    polling(body)


@pytest.mark.parametrize("before", [2, 3])
def test_a_fork_far_back_is_found_by_the_proof(
    monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    """Of what was followed, and of what a look-up has shown."""
    monkeypatch.setattr("cbfs.names.lookups.FOLLOW_MAX", 100)

    async def body(here: Polling) -> None:
        with here.liar.memory():
            here.liar.put(changed=("mallory",))
            if before == 2:
                await here.poll()
            await here.directory.lookups.lookup("bob")
        for _ in range(300):
            here.liar.put()
        assert await here.refused() is Fault.FORK
        here.liar.twist = on_proof(lambda proof: proof[1:])
        assert await here.refused() is Fault.FORK

    polling(body)


def test_bundle_is_settled_by_the_feed_and_not_by_a_name() -> None:
    async def body(here: Polling) -> None:
        reply = here.liar.honest(Lookup("bob"))
        assert isinstance(reply, LookedUp)
        shown = open_bundle(
            here.directory.lookups.policy, encode_bundle(DIRECTORY, reply.evidence, ())
        )
        asked = len(here.liar.requests)
        assert await here.directory.lookups.is_current(shown) is True
        for _ in range(70):
            here.liar.put(replace(CAROL, version=2))
        await here.poll()
        assert await here.directory.lookups.is_current(shown) is True
        here.liar.put(replace(BOB, version=2))
        later = here.liar.honest(Lookup("bob"))
        assert isinstance(later, LookedUp)
        newer = open_bundle(
            here.directory.lookups.policy, encode_bundle(DIRECTORY, later.evidence, ())
        )
        assert here.directory.lookups.is_ahead(newer)
        assert await here.directory.lookups.is_current(newer) is None
        await here.poll()
        assert await here.directory.lookups.is_current(shown) is False
        assert await here.directory.lookups.is_current(newer) is True
        assert not any(isinstance(r, Lookup) for r in here.liar.requests[asked:])

    polling(body)


def test_names_are_looked_up_side_by_side() -> None:
    """Each over a connection of its own; rounds that are made meanwhile do no harm."""
    names = [f"user{number:02}" for number in range(50)]

    async def body(here: Polling) -> None:
        found: dict[str, Found | Absent] = {}

        def busy(request: Request, reply: Reply) -> Reply:
            if isinstance(request, Lookup) and len(here.liar.requests) % 5 == 0:
                here.liar.put()
            return reply

        here.liar.put(*(make_entry(name) for name in names[:25]))
        here.liar.twist = busy

        async def look_up(name: str) -> None:
            found[name] = await here.directory.lookups.lookup(name)

        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(look_up, name)
        assert {n for n, result in found.items() if isinstance(result, Found)} == set(names[:25])
        assert {n for n, result in found.items() if isinstance(result, Absent)} == set(names[25:])

    polling(body)


def serving(directory: Local) -> Callable[[Request], Reply]:
    """A real directory, without its programs."""

    def answer(request: Request) -> Reply:
        if isinstance(request, Submit):
            outcome = directory.round(decode_operation(request.operation))
            refused = outcome.refused.get(request.operation)
            return RefusedReply(refused) if refused else Submitted(0)
        return directory.answer(request)

    return answer


def test_name_is_renewed_for_the_directory_s_term(tmp_path: Path) -> None:
    async def go() -> None:
        with local(tmp_path / "store") as directory:
            own = directory.take("alice")
            async with answering(serving(directory)) as address:
                policy = replace(POLICY, server=address)
                owner = client(policy, Kept(), lambda: float(directory.now))
                await owner.lookups.lookup("alice")
                with pytest.raises(CbfsError, match="no renewal yet"):
                    await owner.renew("alice", b"o" * 32, own)
                directory.now += 1_000
                directory.core.start(directory.now)
                found = await owner.renew("alice", b"o" * 32, own)
                assert own.expires < found.entry.expires <= directory.now + LIFETIME

    trio.run(go)


REGISTRAR = b"R" * 32


@pytest.mark.parametrize(
    "terms",
    [
        Terms(Registration.WORK, work=10),
        Terms(Registration.INVITE, registrar=sign_public(REGISTRAR)),
    ],
)
def test_client_does_what_the_directory_asks_of_a_newcomer(tmp_path: Path, terms: Terms) -> None:
    config = KEYS.config(terms)
    key = b"k" * 32
    invite = Invite(config.directory, sign_public(key), NOW + 1_000, "").signed(REGISTRAR)

    async def go() -> None:
        with local(tmp_path / "store", config) as directory:
            async with answering(serving(directory)) as address:
                policy = config.policy(address)
                owner = client(policy, Kept(), lambda: float(directory.now))
                token = None
                if terms.registrar:
                    with pytest.raises(OperationRefused) as caught:
                        await owner.register("alice", b"profile", b"n" * 32)
                    assert caught.value.refusal is Refusal.INVITE_NEEDED
                    token = Token(key, invite)
                found = await owner.register("alice", b"profile", b"n" * 32, token)
                assert found.entry.profile == b"profile"
                again = await owner.register("alice", b"profile", b"n" * 32, token)
                assert again.entry == found.entry

    trio.run(go)
