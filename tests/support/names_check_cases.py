"""Vectors of what a client checks: policies, what an operation makes of an entry, and answers to
look-ups at different times and after different heads. Each stands alone: bytes or text, and what
comes of them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from cbfs_common.names.checks import DirectoryState
from cbfs_common.names.entry import Entry, Keys, Status
from cbfs_common.names.feed import Position, position_after
from cbfs_common.names.note import to_base64
from cbfs_common.names.operations import HistoryLink, Operation, OperationKind
from cbfs_common.names.wire import encode_reply
from cbfs_common.primitives import sign_public
from cbfs_common.profile import Address
from tests.support.names_naive import (
    DIRECTORY,
    NAMESPACE,
    NOW,
    ZERO,
    Forger,
    log_path,
    make_entry,
    make_policy,
)

OWNER, NEW_OWNER, HEIR = b"o" * 32, b"p" * 32, b"h" * 32
HERE = Address(bytes(range(32)), "127.0.0.1", 7701)
Case = dict[str, Any]


def policies() -> list[Case]:
    """Whose signatures are enough, and files that are none."""
    good = make_policy(HERE, 3, 2)
    weaker = "# cbfs-degraded group some 1 v1 v2\n# cbfs-degraded quorum some\n"
    text = good.encode() + weaker
    lines = text.split("\n")
    wrong = {
        "no log": "\n".join(line for line in lines if not line.startswith("log ")),
        "two logs": text + lines[2] + "\n",
        "no configuration": text.replace("# cbfs-config", "# config"),
        "a configuration of 31 bytes": text.replace(
            lines[1], f"# cbfs-config {to_base64(ZERO[1:])}"
        ),
        "no quorum": text.replace("quorum all", "", 1),
        "quorum none": text.replace("quorum all", "quorum none", 1),
        "a quorum that is not there": text.replace("quorum all", "quorum most", 1),
        "a witness twice": text.replace(lines[3], f"{lines[3]}\n{lines[3]}", 1),
        "a key under two names": text.replace(
            "witness v2", f"witness v9{lines[3][10:]}\nwitness v2", 1
        ),
        "a vkey with another id": text.replace("+", "+0", 1),
        "a threshold of 0": text.replace("group all 2", "group all 0", 1),
        "a threshold of 4": text.replace("group all 2", "group all 4", 1),
        "a threshold with a zero in front": text.replace("group all 2", "group all 02", 1),
        "a member of two groups": text.replace("quorum all", "group b any v1\nquorum all", 1),
        "a member that is not there": text.replace("v1 v2 v3", "v1 v2 v4", 1),
        "an unknown line": text + "monitor v1\n",
        "a namespace with a slash": text.replace(NAMESPACE, "test.example/log"),
        "a namespace in capitals": text.replace(NAMESPACE, NAMESPACE.upper()),
        "a control character": text + "\x00",
        "a degraded witness": text + "# cbfs-degraded witness v9 x\n",
    }
    sets: tuple[tuple[str, ...], ...] = ((), ("v1",), ("v1", "v2"), ("v2", "v3"), ("v1", "v9"))
    cases: list[Case] = [
        {
            "policy": text,
            "namespace": NAMESPACE,
            "directory": DIRECTORY.hex(),
            "enough": [list(signed) for signed in sets if len(set(signed) - {"v9"}) >= 2],
            "too few": [list(signed) for signed in sets if len(set(signed) - {"v9"}) < 2],
            "enough when degraded": [["v1"], ["v2"]],
        }
    ]
    return cases + [
        {"what": what, "policy": bad, "error": "DecodeError"} for what, bad in wrong.items()
    ]


def chains() -> list[Case]:
    """What each operation makes of an entry, one after another; and some that make nothing."""
    entry = make_entry("alice")
    new, heir = (Keys(1, (sign_public(seed),)) for seed in (NEW_OWNER, HEIR))
    cases: list[Case] = []

    def step(kind: OperationKind, seeds: tuple[bytes, ...], made: Case, **rest: Any) -> None:
        nonlocal entry
        round_, time = entry.round + 7, NOW + 100 * (len(cases) + 1)
        free = kind is OperationKind.FREEZE
        version, before = (0, ZERO) if free else (entry.version + 1, entry.digest())
        operation = Operation(
            kind, DIRECTORY, "alice", 1, version, before, round_ + 9, **rest
        ).signed(seeds)
        number = {"version": entry.version + 1, "round": round_, "previous": entry.digest()}
        after = replace(entry, **{**number, **made})
        link = HistoryLink(round_, time, operation.encode())
        cases.append(
            {
                "what": kind.name,
                "before": entry.encode().hex(),
                "link": link.encode().hex(),
                "after": after.encode().hex(),
            }
        )
        entry = after

    both = (OWNER, NEW_OWNER)
    step(OperationKind.UPDATE, (OWNER,), {"profile": b"new"}, profile=b"new")
    step(OperationKind.RENEW, (OWNER,), {"expires": NOW + 2 * 10**6}, until=NOW + 2 * 10**6)
    rotated: Case = {"owners": new, "recovery": heir, "profile": b"rotated"}
    step(OperationKind.ROTATE, both, rotated, owners=new, recovery=heir, profile=b"rotated")
    due = NOW + 400 + 7 * 86_400
    step(
        OperationKind.RECOVER,
        (HEIR, OWNER),
        {"heirs": owner_keys(), "due": due},
        owners=owner_keys(),
    )
    step(OperationKind.CANCEL, (NEW_OWNER,), {"heirs": Keys(0, ()), "due": 0})
    step(OperationKind.FREEZE, (NEW_OWNER,), {"status": Status.FROZEN})
    frozen = entry
    thawed = Operation(
        OperationKind.UPDATE,
        DIRECTORY,
        "alice",
        1,
        frozen.version + 1,
        frozen.digest(),
        60,
        profile=b"x",
    )
    first = make_entry("alice")
    update = replace(thawed, version=2, previous=first.digest())
    wrong: dict[str, tuple[Entry, Operation, str]] = {
        "of a frozen name": (frozen, thawed.signed((NEW_OWNER,)), "NAME_FROZEN"),
        "frozen again": (
            frozen,
            replace(
                thawed, kind=OperationKind.FREEZE, version=0, previous=ZERO, profile=b""
            ).signed((NEW_OWNER,)),
            "NAME_FROZEN",
        ),
        "of another directory": (
            first,
            replace(update, directory=bytes(16)).signed((OWNER,)),
            "WRONG_DIRECTORY",
        ),
        "of another version": (first, replace(update, version=3).signed((OWNER,)), "WRONG_VERSION"),
        "of another entry": (
            first,
            replace(update, previous=b"x" * 32).signed((OWNER,)),
            "WRONG_VERSION",
        ),
        "signed by nobody who owns it": (first, update.signed((NEW_OWNER,)), "WRONG_SIGNATURE"),
        "signed by somebody else as well": (first, update.signed(both), "WRONG_SIGNATURE"),
        "of a round that is over": (
            first,
            replace(update, expires=7).signed((OWNER,)),
            "OUT_OF_DATE",
        ),
    }
    return cases + [
        {
            "what": what,
            "before": before.encode().hex(),
            "link": HistoryLink(8, NOW + 100, operation.encode()).encode().hex(),
            "error": refusal,
        }
        for what, (before, operation, refusal) in wrong.items()
    ]


def owner_keys() -> Keys:
    return Keys(1, (sign_public(OWNER),))


def lookups() -> list[Case]:
    """Answers to a look-up of alice at different times and after different heads, and what a
    client that knows ``state`` makes of them."""
    policy = make_policy(HERE)
    forger = Forger([make_entry("alice"), make_entry("bob")])
    start = DirectoryState(DIRECTORY, Position(0, ()), 0, Position(0, ()))
    log = forger.log()
    here = position_after(len(log), log[-1], tuple(log_path(len(log) - 1, log)))
    known = replace(start, head=here, feed=here, time=NOW)
    larger = replace(forger, filler=9)
    log = larger.log()
    there = position_after(len(log), log[-1], tuple(log_path(len(log) - 1, log)))
    fork = replace(forger, salt=b"fork")
    cases: list[Case] = []

    def case(what: str, forged: Forger, state: DirectoryState, now: int, **result: Any) -> None:
        payload = encode_reply(forged.look_up("alice")).hex()
        cases.append({"what": what, "policy": policy.encode(), "state": state.encode().hex(),
                      "name": "alice", "now": now, "answer": payload, **result})  # fmt: skip

    entry = make_entry("alice").encode().hex()
    first, seen = known.encode().hex(), replace(known, seen=(there,)).encode().hex()
    case("the first head", forger, start, NOW, entry=entry, after=first)
    case("as old as it may be", forger, start, NOW + 300, entry=entry, after=first)
    case("too old", forger, start, NOW + 301, error="STALE")
    case("as far ahead as it may be", forger, start, NOW - 60, entry=entry, after=first)
    case("too far ahead", forger, start, NOW - 61, error="FUTURE")
    case("signed before the last", replace(forger, time=NOW - 1), known, NOW, error="CLOCK")
    wrong = replace(known, time=NOW + 61)
    case("after a time that a wrong clock took", forger, wrong, NOW, entry=entry, after=first)
    case("the same head", forger, known, NOW, entry=entry, after=first)
    case("a larger head, which is kept", larger, known, NOW, entry=entry, after=seen)
    case("a smaller head", replace(forger, filler=1), known, NOW, error="SMALLER")
    case(
        "smaller than one that was seen",
        forger,
        replace(known, seen=(there,)),
        NOW,
        error="SMALLER",
    )
    case("another head of the same size", fork, known, NOW, error="FORK")
    case("nobody has it", Forger([make_entry("bob")]), start, NOW, absent=True)
    over = Forger([make_entry("alice", expires=NOW - 1)])
    case("it has expired", over, start, NOW, error="NameExpired")
    last = Forger([make_entry("alice", expires=NOW)])
    entry = make_entry("alice", expires=NOW).encode().hex()
    case("it expires now", last, start, NOW, entry=entry)
    return cases


FILES: dict[str, Callable[[], list[Case]]] = {
    "names-policies.json": policies,
    "names-chains.json": chains,
    "names-lookups.json": lookups,
}
