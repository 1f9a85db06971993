"""Chains of operations, bundles and operations, against people and servers that lie."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import trio

from cbfs.names.lookups import DirectoryDown
from cbfs_common.limits import (
    BUNDLE_MAX,
)
from cbfs_common.names.changes import HistoryLink
from cbfs_common.names.checks import Absent, Fault, Found, check_bundle, new_state
from cbfs_common.names.entry import Entry, Keys
from cbfs_common.names.faults import DirectoryLies
from cbfs_common.names.operations import (
    Operation,
    OperationKind,
    OperationRefused,
    Refusal,
)
from cbfs_common.names.policy import Policy
from cbfs_common.names.proofs import decode_bundle, encode_bundle
from cbfs_common.names.wire import (
    AskTerms,
    LookedUp,
    Lookup,
    RefusedReply,
    Reply,
    Request,
    Steps,
    Submit,
    Submitted,
    TermsAre,
)
from tests.support.names_asked import ALICE, BOB, HERE, Asked, changed, flipped, forged
from tests.support.names_naive import (
    DIRECTORY,
    NOW,
    TERMS,
    Forger,
    make_policy,
)
from tests.support.names_server import Kept, answering, client

OWNER = b"o" * 32

# Chains of operations: all verifiers collude, and the known contact's owner does not.


def step(old: Entry, seed: bytes = OWNER, **changes: object) -> tuple[HistoryLink, Entry]:
    """An UPDATE of ``old`` in round 5, signed by ``seed``, and the entry it makes."""
    operation = Operation(
        OperationKind.UPDATE, DIRECTORY, old.name, old.incarnation, old.version + 1, old.digest(),
        9, profile=b"new profile %d" % old.version,
    )  # fmt: skip
    operation = replace(operation, **changes).signed((seed,))  # type: ignore[arg-type]
    entry = replace(
        old, version=old.version + 1, round=5, previous=old.digest(), profile=operation.profile
    )
    return HistoryLink(5, NOW, operation.encode()), entry


def chained(entry: Entry, *links: HistoryLink) -> Asked:
    reply = Forger([entry, BOB]).look_up("alice")
    return Asked(lambda: replace(reply, links=links), known=ALICE)


def test_owner_s_own_changes_are_followed() -> None:
    first, second = step(ALICE)
    third, last = step(second)
    found, _ = chained(last, first, third).go()
    assert isinstance(found, Found)
    assert found.entry == last
    _, _, links = decode_bundle(found.bundle)
    assert links == (first, third)
    assert check_bundle(make_policy(HERE), found.bundle, ALICE) == last
    assert check_bundle(make_policy(HERE), found.bundle, replace(last, version=9)).version == 9


FALSE_CHAINS: dict[str, Callable[[], Asked]] = {
    "signed by somebody else": lambda: chained(step(ALICE)[1], step(ALICE, b"m" * 32)[0]),
    "of another version": lambda: chained(step(ALICE)[1], step(ALICE, version=3)[0]),
    "of another entry": lambda: chained(step(ALICE)[1], step(ALICE, previous=bytes(32))[0]),
    "of another directory": lambda: chained(step(ALICE)[1], step(ALICE, directory=bytes(16))[0]),
    "of a round that is over": lambda: chained(step(ALICE)[1], step(ALICE, expires=4)[0]),
    "to another profile": lambda: chained(
        replace(step(ALICE)[1], profile=b"mallory"), step(ALICE)[0]
    ),
    "in another round": lambda: chained(replace(step(ALICE)[1], round=6), step(ALICE)[0]),
    "that is garbage": lambda: chained(step(ALICE)[1], HistoryLink(5, NOW, b"garbage")),
}


@pytest.mark.parametrize("fault", FALSE_CHAINS)
def test_false_chain_never_replaces_a_known_contact(fault: str) -> None:
    with pytest.raises(DirectoryLies) as caught:
        FALSE_CHAINS[fault]().go()
    assert caught.value.fault is Fault.CHAIN


def test_missing_links_are_asked_for_and_their_lack_is_named() -> None:
    links, entry = [], ALICE
    for _ in range(5):
        link, entry = step(entry)
        links.append(link)
    pages: list[Reply] = [Steps(tuple(links[:2])), Steps(tuple(links[2:]))]

    def serve(pages: list[Reply]) -> Found | Absent:
        async def go() -> Found | Absent:
            def answer(request: Request) -> Reply:
                if isinstance(request, Lookup):
                    reply = Forger([entry]).look_up("alice")
                    return replace(reply, links=tuple(links[-1:]))
                return pages.pop(0)

            async with answering(answer) as address:
                directory = client(make_policy(address), Kept(), lambda: float(NOW))
                return await directory.lookups.lookup("alice", ALICE)

        return trio.run(go)

    found = serve(pages)
    assert isinstance(found, Found)
    assert found.entry == entry
    with pytest.raises(DirectoryLies) as caught:
        serve([Steps(tuple(links[:2])), Steps(())])
    assert caught.value.fault is Fault.CHAIN


# Bundles, which come from other people.


def bundle(reply: LookedUp) -> bytes:
    return encode_bundle(DIRECTORY, reply.evidence, reply.links)


def bundle_fault(policy: Policy, data: bytes, known: Entry | None = None) -> Fault:
    with pytest.raises(DirectoryLies) as caught:
        check_bundle(policy, data, known)
    return caught.value.fault


def test_bundle_is_checked_but_for_its_age() -> None:
    policy = make_policy(HERE)
    assert check_bundle(policy, bundle(forged(time=NOW - 10**6))) == ALICE
    assert bundle_fault(policy, b"") is Fault.MALFORMED
    assert bundle_fault(policy, bundle(forged()) + b"\x00") is Fault.MALFORMED
    assert bundle_fault(policy, bytes(BUNDLE_MAX + 1)) is Fault.MALFORMED
    assert bundle_fault(policy, bundle(Forger([BOB]).look_up("alice"))) is Fault.MALFORMED
    assert bundle_fault(policy, bundle(forged(signers=()))) is Fault.QUORUM
    assert bundle_fault(policy, bundle(forged(config=bytes(32)))) is Fault.CONFIG
    assert bundle_fault(policy, bundle(forged(number_off=1))) is Fault.LAST_ROUND
    assert bundle_fault(policy, bundle(changed(forged(), entry=BOB.encode()))) is Fault.MAP_PROOF
    assert bundle_fault(policy, bundle(forged()), BOB) is Fault.WRONG_NAME


def test_any_flipped_bit_of_a_bundle_is_refused() -> None:
    good, policy = bundle(forged()), make_policy(HERE)
    for at in range(len(good) - 1):
        with pytest.raises(DirectoryLies):
            check_bundle(policy, flipped(good, at))


# Operations against a server that lies about them.


def submitting(reply: Reply, entries: list[Entry]) -> Found:
    async def go() -> Found:
        def answer(request: Request) -> Reply:
            if isinstance(request, Submit):
                return reply
            if isinstance(request, AskTerms):
                return TermsAre(TERMS, 0)
            return Forger(entries).look_up("alice")

        async with answering(answer) as address:
            directory = client(make_policy(address), Kept(), lambda: float(NOW))
            return await directory.register("alice", b"own profile", b"n" * 32)

    return trio.run(go)


def test_registration_that_is_only_claimed_is_a_lie() -> None:
    with pytest.raises(DirectoryLies) as caught:
        submitting(Submitted(4), [BOB])
    assert caught.value.fault is Fault.VANISHED


def test_refused_registration_says_why() -> None:
    with pytest.raises(OperationRefused) as caught:
        submitting(RefusedReply(Refusal.TOO_MANY), [BOB])
    assert caught.value.refusal is Refusal.TOO_MANY


def test_another_directory_s_state_is_not_mixed_up() -> None:
    other = replace(new_state(make_policy(HERE)), directory=bytes(16))
    kept = Kept()
    kept.state = other.encode()

    async def go() -> None:
        async with answering(lambda _: forged()) as address:
            await client(make_policy(address), kept, lambda: float(NOW)).lookups.lookup("alice")

    with pytest.raises(DirectoryLies) as caught:
        trio.run(go)
    assert caught.value.fault is Fault.NAMESPACE


def test_broken_connection_and_no_server_are_down_not_lies() -> None:
    with pytest.raises(DirectoryDown):
        Asked(lambda: None).go()

    async def nobody() -> None:
        await client(make_policy(HERE), Kept(), lambda: float(NOW)).lookups.lookup("alice")

    with pytest.raises(DirectoryDown):
        trio.run(nobody)


def test_entry_too_large_for_a_bundle_is_found_without_one() -> None:
    keys = Keys(1, tuple(bytes([n]) * 32 for n in range(5)))
    large = replace(ALICE, owners=keys, recovery=keys, profile=bytes(1_024))
    fillers = replace(Forger([large]), filler=255, signers=tuple(range(1, 11)))
    found, _ = Asked(lambda: fillers.look_up("alice"), witnesses=10, threshold=10).go()
    assert found == Found(large, b"")
