"""What names-lookups.json and names-bundles.json hold: answers at different times and after
different heads, polls and bundles; see tests.vectors.make_names."""

import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from cbfs_common.names.changes import HistoryLink
from cbfs_common.names.entry import Entry, Status
from cbfs_common.names.note import cosign, sign_checkpoint
from cbfs_common.names.proofs import encode_bundle
from cbfs_common.names.wire import LookedUp, encode_reply
from tests.support.naive_names import index, log_root, position
from tests.support.names_naive import (
    CONFIG,
    DIRECTORY,
    LOG_SEED,
    NAMESPACE,
    NOW,
    ZERO,
    Forger,
    log_path,
    make_entry,
    make_policy,
    verifier_key,
    verifier_seed,
)
from tests.support.names_plain import changed, checkpoint, leaf, leaf_hash, short
from tests.vectors.cases import Case, File, case
from tests.vectors.make_checks import DEGRADED, HERE, history
from tests.vectors.make_rounds import packed


def state(head: int, feed: int, seen: tuple[int, ...], time: int, leaves: list[bytes]) -> bytes:
    """What a client stores that knows so much of this log."""
    data = b"\x03" + DIRECTORY + position(leaves[:head]) + struct.pack(">Q", time)
    data += position(leaves[:feed]) + bytes([len(seen)])
    return data + b"".join(position(leaves[:size]) for size in seen)


def lookups() -> File:
    return {"look-up": _lookups() + _of_known() + _degraded(), "poll": _polls()}


def _lookup(
    name: str,
    forged: Forger,
    before: bytes,
    now: int,
    *,
    policy: str = "",
    known: Entry | None = None,
    links: tuple[HistoryLink, ...] = (),
    data: bytes = b"",
    **result: Any,
) -> Case:
    answer = data or encode_reply(LookedUp(forged.look_up("alice").evidence, links))
    text = policy or make_policy(HERE).encode()
    if "error" not in result:
        result = {"found": make_entry("alice").encode(), "degraded": False, **result}
    old = known.encode() if known else None
    return case(name, policy=text, state=before, person="alice", known=old, now=now,
                data=answer, **result)  # fmt: skip


def _lookups() -> list[Case]:
    """At different times and after different heads."""
    forger = Forger([make_entry("alice"), make_entry("bob")])
    log, larger = forger.log(), replace(forger, filler=9)
    more, size = larger.log(), len(forger.log())
    start, known = state(0, 0, (), 0, []), state(size, size, (), NOW, log)
    both = known[:-1] + b"\1" + position(more)
    clock = state(size, size, (), NOW + 61, log)
    slower = state(size, size, (), NOW + 60, log)
    fork, entry = replace(forger, salt=b"fork"), make_entry("alice")
    released = replace(entry, status=Status.RELEASED, profile=b"")
    evidence = forger.look_up("alice").evidence
    lies: dict[str, tuple[bytes, str]] = {
        "no answer": (b"", "MALFORMED"),
        "bytes left over": (encode_reply(forger.look_up("alice")) + b"\0", "MALFORMED"),
        "a head that is none": (
            encode_reply(LookedUp(replace(evidence, note=b"x"), ())), "MALFORMED"),
        "a round that is none": (
            encode_reply(LookedUp(replace(evidence, round=b"x"), ())), "MALFORMED"),
        "a map proof that is none": (
            encode_reply(LookedUp(replace(evidence, map_proof=b"x"), ())), "MAP_PROOF"),
        "an entry that is none": (
            encode_reply(LookedUp(replace(evidence, entry=b"x"), ())), "MAP_PROOF"),
        "another entry": (
            encode_reply(LookedUp(replace(evidence, entry=replace(entry, version=2).encode()), ())),
            "MAP_PROOF"),
        "another name": (encode_reply(forger.look_up("bob")), "WRONG_NAME"),
        "a cosignature of another time": (
            encode_reply(LookedUp(_signed_anew(forger, time=1), ())), "SIGNATURE"),
        "a wrong signature of the log": (
            encode_reply(LookedUp(_signed_anew(forger, log=True), ())), "SIGNATURE"),
        "no signature of the log": (
            encode_reply(LookedUp(_without_log(forger), ())), "QUORUM"),
    }  # fmt: skip
    return [
        _lookup("the first head", forger, start, NOW, after=known),
        _lookup("as old as it may be", forger, start, NOW + 300, after=known),
        _lookup("too old", forger, start, NOW + 301, error="STALE"),
        _lookup("as far ahead as it may be", forger, start, NOW - 60, after=known),
        _lookup("too far ahead", forger, start, NOW - 61, error="FUTURE"),
        _lookup("signed before the last", replace(forger, time=NOW - 1), known, NOW,
                error="CLOCK"),
        _lookup("after a time that a clock was ahead", forger, slower, NOW, error="CLOCK"),
        _lookup("after a time that a wrong clock took", forger, clock, NOW, after=known),
        _lookup("the same head", forger, known, NOW, after=known),
        _lookup("a larger head, which is kept", larger, known, NOW, after=both),
        _lookup("a smaller head", replace(forger, filler=1), known, NOW, error="SMALLER"),
        _lookup("smaller than one that was seen", forger, both, NOW, error="SMALLER"),
        _lookup("another head of the same size", fork, known, NOW, error="FORK"),
        _lookup("nobody has it", Forger([make_entry("bob")]), start, NOW, found=None,
                after=state(size, size, (), NOW, Forger([make_entry("bob")]).log())),
        _of_end("a second after its end", make_entry("alice", expires=NOW - 1), "expired"),
        _of_end("it was given up", released, "expired"),
        _of_end("in the second of its end", make_entry("alice", expires=NOW), ""),
        _lookup("another namespace", replace(forger, origin="other"), start, NOW,
                error="NAMESPACE"),
        _lookup("another configuration", replace(forger, config=bytes(32)), start, NOW,
                error="CONFIG"),
        _lookup("another round's number", replace(forger, number_off=1), start, NOW,
                error="LAST_ROUND"),
        _lookup("a state of another directory", forger, b"\3" + bytes(16) + start[17:], NOW,
                error="NAMESPACE"),
        *(_lookup(name, forger, start, NOW, data=data or b"\0", error=error)
          for name, (data, error) in lies.items()),
    ]  # fmt: skip


def _of_end(name: str, entry: Entry, error: str) -> Case:
    forger = Forger([entry])
    result: Case = {"error": error}
    if not error:
        size = len(forger.log())
        result = {"found": entry.encode(), "after": state(size, size, (), NOW, forger.log())}
    return _lookup(name, forger, state(0, 0, (), 0, []), NOW, **result)


def _signed_anew(forger: Forger, *, time: int = 0, log: bool = False) -> Any:
    """Evidence whose last signature, or the log's, is not over what it should be."""
    head = forger.note()
    lines = list(head.lines)
    at = 0 if log else -1
    signed = bytearray(lines[at].signature)
    signed[7 if time else -1] ^= 1
    lines[at] = replace(lines[at], signature=bytes(signed))
    return replace(
        forger.look_up("alice").evidence, note=replace(head, lines=tuple(lines)).encode()
    )


def _without_log(forger: Forger) -> Any:
    head = forger.note()
    note = replace(head, lines=head.lines[1:]).encode()
    return replace(forger.look_up("alice").evidence, note=note)


def _of_known() -> list[Case]:
    """Of a contact whose entry is known."""
    chain, *_ = history()
    entries, first = [*chain.entries, chain.entry], chain.entries[0]
    start = state(0, 0, (), 0, [])
    links = tuple(_read(link) for link in chain.links[:5])
    here = Forger([entries[5]])
    size = len(here.log())
    after = state(size, size, (), NOW, here.log())
    bob = Forger([make_entry("bob")])
    taken = Forger([replace(entries[5], incarnation=2)])
    found = entries[5].encode()
    return [
        _lookup("a known entry that follows", here, start, NOW, known=first, links=links,
                found=found, after=after),
        _lookup("the known entry", here, start, NOW, known=entries[5], found=found, after=after),
        _lookup("nobody has a known name", bob, start, NOW, known=first, error="VANISHED"),
        _lookup("an older version", here, start, NOW, known=entries[6], error="ROLLED_BACK"),
        _lookup("an older incarnation", here, start, NOW, known=replace(first, incarnation=2),
                error="ROLLED_BACK"),
        _lookup("another entry of the known version", here, start, NOW, error="SAME_VERSION",
                known=replace(entries[5], profile=b"other")),
        _lookup("no links to the known entry", here, start, NOW, known=first, error="CHAIN"),
        _lookup("a new owner", taken, start, NOW, known=first, links=links, error="changed"),
    ]  # fmt: skip


def _read(link: bytes) -> HistoryLink:
    round_, time, _ = struct.unpack(">QQH", link[:18])
    return HistoryLink(round_, time, link[18:])


def _degraded() -> list[Case]:
    """With a policy of two of three, and a degraded one of one."""
    policy = make_policy(HERE, 3, 2).encode() + DEGRADED
    alice, start = make_entry("alice"), state(0, 0, (), 0, [])
    one, two = Forger([alice], signers=(1,)), Forger([alice], signers=(1, 2))
    size, log = len(two.log()), two.log()
    after = state(size, size, (), NOW, log)
    three = replace(two, signers=(1, 2, 3))
    early = replace(two, times={2: NOW - 200})
    old = replace(two, times={1: NOW, 2: NOW - 301})
    ahead = replace(two, times={1: NOW + 61})
    third = replace(two, signers=(1, 2, 3), times={1: NOW + 61, 2: NOW - 5, 3: NOW - 7})

    def known(name: str, forger: Forger, **more: Any) -> Case:
        return _lookup(name, forger, start, NOW, policy=policy, **more)

    return [
        known("two have signed", two, after=after),
        known("the older of two cosignatures counts", early,
              after=state(size, size, (), NOW - 200, log)),
        known("one of three is ahead of its time", third,
              after=state(size, size, (), NOW - 7, log)),
        known("one of two is ahead of its time", ahead, error="FUTURE"),
        known("the third signature is wrong", three, error="SIGNATURE",
              data=encode_reply(LookedUp(_signed_anew(three), ()))),
        known("one has signed, of somebody unknown", one, error="QUORUM"),
        known("one has signed, of a known contact", one, known=alice, after=start, degraded=True),
        known("one has signed, of a contact who has changed", one, error="QUORUM",
              known=replace(alice, profile=b"other")),
        known("one of two has signed long ago, of a known contact", old, known=alice, after=start,
              degraded=True),
        known("one of two has signed long ago, of somebody unknown", old, error="STALE"),
    ]  # fmt: skip


CHANGES = {7: (b"\1" * 8, b"\2" * 8), 66: (b"\2" * 8,), 69: ()}


def _leaf(number: int) -> bytes:
    return leaf(number, CHANGES.get(number, changed(number)), CONFIG)


def _tile(number: int, end: int, skip: int | None = None) -> bytes:
    """The rounds of a tile up to ``end``."""
    rounds = [at for at in range(number * 64, min(end, number * 64 + 64)) if at != skip]
    return b"".join(
        short(_leaf(at)) + struct.pack(">H", len(what)) + b"".join(what)
        for at in rounds
        for what in [CHANGES.get(at, changed(at))]
    )


def _head(leaves: list[bytes], size: int) -> bytes:
    """The answer that a poll has."""
    root = checkpoint(size, log_root(leaves[:size]))
    lines = sign_checkpoint(LOG_SEED, NAMESPACE, root).encode()
    lines += cosign(verifier_seed(1), verifier_key(1).name, NOW, root).encode()
    proof = log_path(size - 1, leaves[:size])
    data = bytes([len(proof)]) + b"".join(proof)
    return packed(133, root + b"\n" + lines.encode(), _leaf(size - 1), data)


def _polls() -> list[Case]:
    leaves = [leaf_hash(_leaf(number)) for number in range(70)]
    policy, other = make_policy(HERE).encode(), [ZERO, *leaves[1:]]
    whole = [_tile(0, 70), _tile(1, 70)]

    def expected(feed: int) -> list[Any]:
        found: dict[bytes, int] = {}
        for number in range(feed, 70):
            found |= dict.fromkeys(CHANGES.get(number, changed(number)), number)
        return sorted([prefix, number] for prefix, number in found.items())

    def poll(
        name: str, before: bytes, tiles: list[bytes], size: int = 70, now: int = 10, **result: Any
    ) -> Case:
        return case(name, policy=policy, state=before, now=NOW + now, data=_head(leaves, size),
                    tiles=tiles, **result)  # fmt: skip

    after = state(70, 70, (), NOW, leaves)
    at5, at66 = state(5, 5, (), NOW, leaves), state(66, 66, (), NOW, leaves)
    return [
        poll("from the fifth round on", at5, whole, after=after, changed=expected(5)),
        poll("from within a tile", at66, whole[1:], after=after, changed=expected(66)),
        poll("through heads that were seen", state(13, 5, (16, 17), NOW, leaves), whole,
             after=after, changed=expected(5)),
        poll("as old as it may be", at66, whole[1:], now=300, after=after, changed=expected(66)),
        poll("too old", at66, whole[1:], now=301, error="STALE"),
        poll("nothing new", after, [_tile(1, 70)], after=after, changed=[]),
        poll("from another log", state(5, 5, (), NOW, other), whole, error="FORK"),
        poll("a head that was seen is of another log",
             state(13, 5, (), NOW, leaves)[:-1] + b"\1" + position(other[:16]), whole,
             error="FORK"),
        poll("a tile too few", at5, whole[:1], error="FEED"),
        poll("a round too few", at5, [whole[0], _tile(1, 69)], error="FEED"),
        poll("a round left out", at5, [whole[0], _tile(1, 70, skip=66)], error="FEED"),
        poll("a tile that is none", at5, [whole[0] + b"\0", whole[1]], error="FEED"),
        poll("a smaller head", at66, whole, size=60, error="SMALLER"),
        poll("signed before the last", state(66, 66, (), NOW + 1, leaves), whole[1:],
             error="CLOCK"),
    ]  # fmt: skip


# Bundles


def bundles() -> File:
    policy = make_policy(HERE, 3, 2).encode()
    chain, *_ = history()
    entries = [*chain.entries, chain.entry]
    forger = Forger([entries[5], make_entry("bob")], signers=(1, 3))
    links = tuple(_read(link) for link in chain.links[:5])
    evidence, here = forger.look_up("alice").evidence, position(forger.log())
    right = encode_bundle(DIRECTORY, evidence, links)
    found: dict[str, Entry | None] = {
        "of somebody unknown": None,
        "that follows": entries[0],
        "of the known entry": entries[5],
        "older than the known entry": entries[7],
    }
    made = [
        case(name, policy=policy, bundle=right, known=known.encode() if known else None,
             entry=entries[5].encode(), position=here)
        for name, known in found.items()
    ]  # fmt: skip
    late = replace(forger, time=1)
    made.append(case("signed long ago", policy=policy, known=None, position=here,
                     bundle=encode_bundle(DIRECTORY, late.look_up("alice").evidence, ()),
                     entry=entries[5].encode()))  # fmt: skip
    changed_owner = replace(entries[5], incarnation=2)
    lies: dict[str, tuple[bytes, Entry | None, str]] = {
        "nothing": (b"", None, "MALFORMED"),
        "cut short": (right[:-1], None, "MALFORMED"),
        "a byte left over": (right + b"\0", None, "MALFORMED"),
        "another version": (b"\2" + right[1:], None, "MALFORMED"),
        "too long": (right + bytes(3_073 - len(right)), None, "MALFORMED"),
        "of a name that nobody has": (
            encode_bundle(DIRECTORY, forger.look_up("nobody").evidence, ()), None, "MALFORMED"),
        "of another directory": (encode_bundle(bytes(16), evidence, links), None, "NAMESPACE"),
        "another entry": (
            encode_bundle(DIRECTORY, replace(evidence, entry=entries[4].encode()), ()), None,
            "MAP_PROOF"),
        "of another name": (right, make_entry("bob"), "WRONG_NAME"),
        "another entry of the known version": (
            right, replace(entries[5], profile=b"other"), "SAME_VERSION"),
        "without links": (encode_bundle(DIRECTORY, evidence, ()), entries[0], "CHAIN"),
        "of a new owner": (_bundle(replace(forger, entries=[changed_owner])), entries[0],
                           "changed"),
        "signed by one": (_bundle(replace(forger, signers=(1,))), None, "QUORUM"),
        "of another namespace": (_bundle(replace(forger, origin="other")), None, "NAMESPACE"),
        "of another configuration": (_bundle(replace(forger, config=bytes(32))), None, "CONFIG"),
        "of another round": (_bundle(replace(forger, number_off=1)), None, "LAST_ROUND"),
        "with a wrong cosignature": (
            encode_bundle(DIRECTORY, _signed_anew(forger, time=1), ()), None, "SIGNATURE"),
    }  # fmt: skip
    made += [
        case(name, policy=policy, bundle=data, known=known.encode() if known else None, error=error)
        for name, (data, known, error) in lies.items()
    ]
    return {"bundle": made, "current": _current()}


def _bundle(forger: Forger) -> bytes:
    return encode_bundle(DIRECTORY, forger.look_up("alice").evidence, ())


def _current() -> list[Case]:
    """A bundle of round 4, in a log that goes on to 70."""
    policy, alice = make_policy(HERE).encode(), make_entry("alice")
    forger = Forger([alice], filler=4, earlier=tuple(leaf_hash(_leaf(n)) for n in range(4)))
    log = forger.log()
    prefix = index(DIRECTORY, "alice")[:8]
    last = {size: _later(size, prefix) for size in (6, 8)}
    found = []
    for name, size, touched in (
        ("nothing has changed", 5, False),
        ("others have changed", 6, False),
        ("it has changed", 8, True),
    ):
        rounds = last.get(size, [])
        data = b"".join(short(each) + struct.pack(">H", len(w)) + b"".join(w) for each, w in rounds)
        data = _begun() + data
        after = [*log, *(leaf_hash(each) for each, _ in rounds)]
        found.append(case(name, policy=policy, state=state(size, size, (), NOW, after),
                          bundle=_bundle(forger), tiles=[data], current=not touched))  # fmt: skip
        assert len(after) == size
    wrong = state(8, 8, (), NOW, [*log, ZERO, ZERO, ZERO])
    rounds = last[8]
    data = _begun() + b"".join(
        short(each) + struct.pack(">H", len(w)) + b"".join(w) for each, w in rounds
    )
    given: Case = {"policy": policy, "bundle": _bundle(forger)}
    found.append(case("of another log", **given, state=wrong, tiles=[data], error="FORK"))
    right = state(8, 8, (), NOW, [*log, *(leaf_hash(each) for each, _ in rounds)])
    found.append(case("rounds are missing", **given, state=right, tiles=[_begun()], error="FEED"))
    return found


def _begun() -> bytes:
    """Five rounds before: they are in the tile, and nobody looks into them again."""
    return _tile(0, 5)


def _later(size: int, prefix: bytes) -> list[tuple[bytes, tuple[bytes, ...]]]:
    """Rounds from 5 on, of which the seventh changes the name with this index."""
    what = {7: (prefix,)}
    return [(leaf(n, what.get(n, ()), CONFIG), what.get(n, ())) for n in range(5, size)]


FILES: dict[str, Callable[[], File]] = {"names-lookups": lookups, "names-bundles": bundles}
