"""How fast the log grows, what waits meanwhile, and what goes first."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from cbfs_common.names import operations
from cbfs_common.names.layout import ZERO
from cbfs_common.names.operations import Operation, OperationKind, Refusal
from cbfs_common.names.wire import (
    Receipted,
    RefusedReply,
    Reply,
    Submit,
    Submitted,
    decode_reply,
    encode_request,
)
from cbfs_common.primitives import Random, kem_encapsulate, sign_public, verify
from cbfs_common.profile import Address
from cbfs_host.settings import Current
from cbfs_names import limits
from cbfs_names.limits import DirectoryLimits
from cbfs_names.processes.receipts import Receipts
from cbfs_names.processes.single import EmbeddedCore
from cbfs_names.state.waiting import WaitingOperations, first_of, refusal_next
from cbfs_names.wire import pace
from cbfs_names.wire.pace import Allowance, LogPace
from cbfs_names.wire.service import DirectoryService
from cbfs_names.wire.sockets import DeferredReply
from tests.support.names_local import (
    CONFIG,
    DIRECTORY,
    KEYS,
    LIFETIME,
    NOW,
    Local,
    commit,
    local,
    owners,
    register,
    rotate,
    update,
)


class Clock:
    """Seconds that the test lets pass."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Local]:
    with local(tmp_path / "store") as made:
        for name in ("alice", "bobby", "carol"):
            made.take(name)
        yield made


def test_so_many_at_once_and_then_one_after_another() -> None:
    clock = Clock()
    made = Allowance(3, 0.5, clock)
    for _ in range(3):
        assert made.wait(1) == 0
        made.take(1)
    assert made.wait(1) == 2
    clock.now += 1.5
    assert made.wait(1) == 0.5
    clock.now += 100
    assert made.left() == 3


def test_the_log_grows_by_no_more_than_so_much_a_day() -> None:
    """Whatever is submitted: rounds are made only as the pace allows, and hold what there is room
    for."""
    clock = Clock()
    made = LogPace(clock=clock)
    rounds = grown = 0
    while clock.now < 86_400:
        clock.now += made.wait()
        operation = bytes(min(made.room(), 1_000_000))
        made.made([operation])
        rounds, grown = rounds + 1, grown + len(operation) + limits.ROUND_COST
    assert rounds <= limits.ROUNDS_AT_ONCE + 86_400 / limits.ROUND_PACE + 1
    assert grown <= limits.LOG_AT_ONCE + 86_400 * limits.LOG_PACE + 1_000_000
    assert grown >= 86_400 * limits.LOG_PACE


def test_what_could_stand_in_no_round_waits_for_none(directory: Local) -> None:
    waiting = WaitingOperations()
    good = update(directory.entry("alice"), b"good")
    forged = replace(good, profile=b"forged")
    old = replace(update(directory.entry("bobby"), b"old"), version=7, signatures=())
    pending = [each.encode() for each in (forged, good, old.signed((b"o" * 32,)))]
    with directory.store.read() as view:
        found = waiting.sift(view, pending, directory.now)
        assert set(found.values()) == {Refusal.WRONG_SIGNATURE, Refusal.WRONG_VERSION}
        assert pending[1] not in found
        assert not waiting.sift(view, pending[1:2], directory.now)


def test_one_name_has_one_place_for_each_kind_of_change(directory: Local) -> None:
    """So who has one name does not fill the room of all; and new keys have a place of their own."""
    waiting, entry = WaitingOperations(), directory.entry("alice")
    flood = [update(entry, b"%d" % number).encode() for number in range(5)]
    new = rotate(entry, owners(b"o" * 32), b"o" * 32).encode()
    with directory.store.read() as view:
        found = waiting.sift(view, [*flood, new], directory.now)
        assert found == dict.fromkeys(flood[1:], Refusal.TOO_MANY)
        assert not waiting.sift(view, [flood[1]], directory.now), "when the first one is gone"


def test_what_is_urgent_goes_first_then_who_changes_seldom_then_newcomers(
    directory: Local,
) -> None:
    directory.round(update(directory.entry("alice"), b"a short time ago"))
    busy = update(directory.entry("alice"), b"again").encode()
    seldom = update(directory.entry("carol"), b"at last").encode()
    urgent = rotate(directory.entry("bobby"), owners(b"o" * 32), b"o" * 32).encode()
    new, arrived = commit("danny").encode(), commit("erika")
    directory.round(arrived)
    registered = register("erika").encode()
    pending = [new, busy, seldom, urgent, registered]
    with directory.store.read() as view:
        every = first_of(view, pending, (), 10**6)
        assert every == [urgent, registered, seldom, busy, new]
        room = sum(map(len, every[:3]))
        assert first_of(view, pending, (), room)[:3] == every[:3]
        assert busy not in first_of(view, pending, (), room)
        assert busy in first_of(view, pending, {busy}, room), "verifiers insist on it"


@contextmanager
def serving(directory: Local, clock: Clock) -> Iterator[DirectoryService]:
    head = directory.core.cosign(directory.now)
    core = EmbeddedCore(directory.core, head)
    made = LogPace(clock=clock)
    service = DirectoryService(
        directory.store,
        core,
        lambda: float(directory.now),
        head,
        pace=made,
        limits=Current(DirectoryLimits(pending=4)),
    )
    try:
        yield service
    finally:
        service.close()


async def submitted(service: DirectoryService, operation: Operation) -> Reply:
    found = service.answer(encode_request(Submit(operation.encode())))
    return decode_reply(await found.reply() if isinstance(found, DeferredReply) else found)


def test_when_rounds_have_to_wait_so_does_what_is_good_and_nothing_else(
    directory: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "ROUNDS_AT_ONCE", 1)
    clock = Clock()

    async def go(service: DirectoryService) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.run)
            first = await submitted(service, update(directory.entry("alice"), b"first"))
            assert isinstance(first, Submitted)
            got: list[Reply] = []

            async def wait() -> None:
                got.append(await submitted(service, update(directory.entry("bobby"), b"good")))

            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked(0.01)
            forged = replace(update(directory.entry("carol"), b"good"), profile=b"forged")
            assert await submitted(service, forged) == RefusedReply(Refusal.WRONG_SIGNATURE)
            assert not got, "there is no round for it yet"
            clock.now += limits.ROUND_PACE
            late = await submitted(service, update(directory.entry("carol"), b"late"))
            assert isinstance(late, Submitted)
            assert late.round == first.round + 1
            with trio.fail_after(60):
                while not got:
                    await trio.testing.wait_all_tasks_blocked()
            assert got == [late], "both are in one round"
            nursery.cancel_scope.cancel()

    with serving(directory, clock) as service:
        trio.run(go, service)


def test_what_could_stand_in_no_round_is_answered_at_once_and_takes_no_place(
    directory: Local,
) -> None:
    """Else whoever sends it without end has everybody wait behind it."""
    known, gone = directory.entry("alice"), directory.entry("bobby")
    nobody = replace(update(gone, b"x"), name="nobody").signed((b"o" * 32,))
    junk = [replace(update(known, b"good"), profile=b"forged"), nobody]
    with serving(directory, Clock()) as service:  # which makes no rounds: it does not run
        for operation in junk * 4:
            reply = service.answer(encode_request(Submit(operation.encode())))
            assert isinstance(reply, bytes)
            assert isinstance(decode_reply(reply), RefusedReply)
        assert service.waiting == 0
        good = service.answer(encode_request(Submit(update(known, b"good").encode())))
        assert isinstance(good, DeferredReply)
        assert service.waiting == 1


def unsigned_changes(directory: Local) -> list[Operation]:
    """One of each kind but a COMMIT, which needs no signature, and a REGISTER, which brings its own
    keys; of a name with an agent and recovery keys, that is being recovered."""
    own, heir, restore = b"o" * 32, b"h" * 32, b"r" * 32
    old = directory.entry("alice")
    new = replace(rotate(old, owners(own), own), recovery=owners(restore))
    directory.round(replace(new, agent=sign_public(b"a" * 32)).signed((own,)))
    change = update(directory.entry("alice"), b"")
    recovery = replace(change, kind=OperationKind.RECOVER, owners=owners(heir))
    outcome = directory.round(recovery.signed((restore, heir)))
    assert not outcome.refused
    old = directory.entry("alice")
    change = update(old, b"")
    until = old.expires + LIFETIME // 2
    directory.now += LIFETIME // 2
    terms = replace(CONFIG.terms, lifetime=LIFETIME + 1)
    return [
        change,
        replace(change, kind=OperationKind.ROTATE, owners=owners(b"s" * 32)),
        replace(change, kind=OperationKind.RENEW, until=until),
        replace(change, kind=OperationKind.RELEASE),
        replace(change, kind=OperationKind.FREEZE, version=0, previous=ZERO),
        replace(change, kind=OperationKind.RECOVER, owners=owners(b"s" * 32)),
        replace(change, kind=OperationKind.CANCEL),
        Operation(
            OperationKind.CONFIGURE,
            DIRECTORY,
            "",
            0,
            0,
            CONFIG.digest(),
            1000,
            terms=replace(CONFIG, terms=terms).encode(),
        ),
    ]


def test_no_signature_is_verified_of_who_has_no_say(
    directory: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody can make keys and sign with them, also besides what the owner has signed."""
    verified: list[bytes] = []

    def counting(public: bytes, message: bytes, signature: bytes) -> None:
        verified.append(public)
        verify(public, message, signature)

    asked = unsigned_changes(directory)
    with serving(directory, Clock()) as service:  # which makes no rounds: it does not run
        monkeypatch.setattr(operations, "verify", counting)
        for unsigned in asked:
            for seeds in ((b"s" * 32,), (b"o" * 32, b"s" * 32, b"t" * 32, KEYS.verifier)):
                request = encode_request(Submit(unsigned.signed(seeds).encode()))
                reply = service.answer(request)
                assert isinstance(reply, bytes), unsigned.kind
                assert decode_reply(reply) == RefusedReply(Refusal.WRONG_SIGNATURE), unsigned.kind
        assert not verified


def test_each_signature_of_who_has_a_say_is_verified(directory: Local) -> None:
    """That the keys would do is not enough."""
    new, restore, agent = b"s" * 32, b"r" * 32, b"a" * 32
    needed: dict[OperationKind, list[tuple[bytes, ...]]] = {
        OperationKind.UPDATE: [(b"o" * 32,)],
        OperationKind.ROTATE: [(b"o" * 32, new)],
        OperationKind.RENEW: [(b"o" * 32,), (agent,)],
        OperationKind.RELEASE: [(b"o" * 32,)],
        OperationKind.FREEZE: [(b"o" * 32,), (agent,)],
        OperationKind.RECOVER: [(restore, new)],
        OperationKind.CANCEL: [(b"o" * 32,)],
        OperationKind.CONFIGURE: [(KEYS.verifier,)],
    }
    asked = [
        unsigned.signed(seeds)
        for unsigned in unsigned_changes(directory)
        for seeds in needed.pop(unsigned.kind)
    ]
    assert not needed
    with directory.store.read() as view:
        for good in asked:
            assert refusal_next(view, good.encode(), directory.now) is None, good.kind
            for number, (key, signature) in enumerate(good.signatures):
                others = list(good.signatures)
                others[number] = key, signature[:32] + bytes(32)
                forged = replace(good, signatures=tuple(others)).encode()
                found = refusal_next(view, forged, directory.now)
                assert found is Refusal.WRONG_SIGNATURE, good.kind


def test_newcomers_leave_room_for_owners(directory: Local) -> None:
    with serving(directory, Clock()) as service:  # which makes no rounds: it does not run

        def asked(operation: Operation) -> bool:
            found = service.answer(encode_request(Submit(operation.encode())))
            if isinstance(found, DeferredReply):
                return True
            assert decode_reply(found) == RefusedReply(Refusal.TOO_MANY)
            return False

        async def go() -> None:
            assert [asked(commit(f"name{n}")) for n in range(3)] == [True, True, False]
            for name in ("alice", "bobby"):
                assert asked(update(directory.entry(name), b"mine"))
            assert not asked(update(directory.entry("carol"), b"mine"))

        trio.run(go)


def test_a_verifier_gives_so_many_receipts_at_once(directory: Local) -> None:
    """Whoever goes by the verifiers does not go past the pace of the log. What could stand in no
    round takes nobody's place."""

    async def go() -> None:
        random = Random(os.urandom, kem_encapsulate)
        here = Address(bytes(32), "127.0.0.1", 1)
        made = Receipts(
            directory.store, directory.verifier, KEYS.verifier, here, lambda: float(NOW), random
        )
        made._pace = Allowance(2, 0.1, Clock())

        async def asked(operation: Operation) -> Reply:
            found = made.ask(operation.encode())
            return decode_reply(await found.reply() if isinstance(found, DeferredReply) else found)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.run)
            forged = replace(update(directory.entry("carol"), b"good"), profile=b"forged")
            for _ in range(5):
                assert await asked(forged) == RefusedReply(Refusal.WRONG_SIGNATURE)
            for name in ("alice", "bobby"):
                given = await asked(update(directory.entry(name), b"good"))
                assert isinstance(given, Receipted)
            late = await asked(update(directory.entry("carol"), b"good"))
            assert late == RefusedReply(Refusal.TOO_MANY)
            nursery.cancel_scope.cancel()

    trio.run(go)
