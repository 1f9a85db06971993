"""What names-policies.json and names-chains.json hold: policies, and what operations make of
entries; see tests.vectors.make_names."""

import base64
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

from cbfs_common.names.changes import HistoryLink
from cbfs_common.names.entry import Entry, Keys, Status
from cbfs_common.names.operations import Operation, OperationKind
from cbfs_common.primitives import sign_public
from cbfs_common.profile import Address
from tests.support.names_naive import (
    CONFIG,
    DIRECTORY,
    LOG_SEED,
    NAMESPACE,
    NOW,
    ZERO,
    make_entry,
    make_policy,
    verifier_seed,
)
from tests.support.names_plain import public, vkey
from tests.vectors.cases import Case, File, case, cases

OWNER, NEW_OWNER, HEIR = b"o" * 32, b"p" * 32, b"h" * 32
AGENT, NEW_AGENT = b"a" * 32, b"b" * 32
DAY = 86_400
HERE = Address(bytes(range(32)), "127.0.0.1", 7701)
DEGRADED = "# cbfs-degraded group some 1 v1 v2\n# cbfs-degraded quorum some\n"

# Policies


def policies() -> File:
    """Whose signatures are enough, and files that are none."""
    text = make_policy(HERE, 3, 2).encode()
    weaker = text + DEGRADED
    lines = weaker.split("\n")
    groups = "group a any v1 v2\ngroup b all a v3\nquorum b"
    nested = text.replace("group all 2 v1 v2 v3\nquorum all", groups)
    alone = text.replace("quorum all", "quorum v2")
    spaced = text.replace("quorum all", "\tquorum \t all  ").replace("# cbfs", "#  cbfs")
    urls = text.replace("\ngroup", f" {HERE.url('cbfs-names')}\ngroup")
    right = {
        "one of two": text,
        "with a degraded policy": weaker,
        "groups of groups": nested,
        "one witness": alone,
        "spaces and tabs": spaced,
        "a witness with an address": urls,
    }
    sets = {
        "nobody": [],
        "one": ["v1"],
        "two": ["v1", "v2"],
        "two others": ["v2", "v3"],
        "one, and somebody else": ["v1", "v9"],
    }
    enough = {
        "one of two": [False, False, True, True, False],
        "with a degraded policy": [False, False, True, True, False],
        "groups of groups": [False, False, False, True, False],
        "one witness": [False, False, True, True, False],
    }
    degraded = [False, True, True, True, True]
    quorums = [
        case(f"{name}: {who}", policy=right[name], signed=signed, enough=is_enough,
             when_degraded=when if right[name] is weaker else None)
        for name, results in enough.items()
        for (who, signed), is_enough, when in zip(sets.items(), results, degraded, strict=True)
    ]  # fmt: skip
    return {
        "policy": [_policy(name, each) for name, each in right.items()]
        + cases("policy", _wrong_policies(weaker, lines), error="malformed"),
        "quorum": quorums,
        "configuration": _configurations(),
    }


def _policy(name: str, text: str) -> Case:
    witnesses = [[f"v{n}", public(verifier_seed(n))] for n in (1, 2, 3)]
    return case(name, policy=text, namespace=NAMESPACE, directory=DIRECTORY,
                log_key=public(LOG_SEED), server_key=HERE.key, host=HERE.host, port=HERE.port,
                config=CONFIG, witnesses=witnesses)  # fmt: skip


def _wrong_policies(text: str, lines: list[str]) -> dict[str, str]:
    many = "".join(
        f"witness w{n} {vkey(f'w{n}', 4, public(bytes([n]) * 32))}\n" for n in range(40, 70)
    )
    return {
        "empty": "",
        "no log": "\n".join(line for line in lines if not line.startswith("log ")),
        "two logs": text + lines[2] + "\n",
        "no configuration": text.replace("# cbfs-config", "# config"),
        "two configurations": text + lines[1] + "\n",
        "a configuration of 31 bytes": text.replace(
            lines[1], f"# cbfs-config {base64.b64encode(bytes(31)).decode()}"
        ),
        "no quorum": text.replace("quorum all", "", 1),
        "two quorums": text.replace("quorum all", "quorum all\nquorum v1", 1),
        "quorum none": text.replace("quorum all", "quorum none", 1),
        "a quorum that is not there": text.replace("quorum all", "quorum most", 1),
        "a witness twice": text.replace(lines[3], f"{lines[3]}\n{lines[3]}", 1),
        "a key under two names": text.replace(
            "witness v2", f"witness v9{lines[3][10:]}\nwitness v2", 1
        ),
        "33 witnesses": text.replace("group", many + "group", 1),
        "a log's key of a verifier": text.replace(
            lines[2].split()[1], vkey(NAMESPACE, 4, public(LOG_SEED))
        ),
        "a vkey with another id": text.replace("+", "+0", 1),
        "a threshold of 0": text.replace("group all 2", "group all 0", 1),
        "a threshold of 4": text.replace("group all 2", "group all 4", 1),
        "a threshold with a zero in front": text.replace("group all 2", "group all 02", 1),
        "a group of nobody": text.replace("group all 2 v1 v2 v3", "group all 2", 1),
        "a member twice": text.replace("v1 v2 v3", "v1 v2 v2", 1),
        "a member of two groups": text.replace("quorum all", "group b any v1\nquorum all", 1),
        "a member that is not there": text.replace("v1 v2 v3", "v1 v2 v4", 1),
        "an unknown line": text + "monitor v1\n",
        "a namespace with a slash": text.replace(NAMESPACE, "test.example/log"),
        "a namespace in capitals": text.replace(NAMESPACE, NAMESPACE.upper()),
        "a control character": text + "\x00",
        "a carriage return": text.replace("\n", "\r\n"),
        "an address of another kind": text.replace("cbfs-names://", "cbfs://"),
        "a degraded witness": text + "# cbfs-degraded witness v9 x\n",
        "a degraded group without a quorum": text.replace("# cbfs-degraded quorum some\n", ""),
    }


def _configurations() -> list[Case]:
    log, registrar = vkey(NAMESPACE, 1, public(LOG_SEED)), public(b"r" * 32)
    shown = base64.b64encode(registrar).decode()
    witnesses = "".join(
        f"witness v{n} {vkey(f'{NAMESPACE}/v{n}', 4, public(verifier_seed(n)))}\n"
        for n in (1, 2, 3)
    )
    begin = f"cbfs1 names config\nlog {log}\n"
    texts: dict[str, tuple[str, Case]] = {
        "open": (
            f"{begin}registration open\nshort 3\nlifetime 63072000\n"
            f"{witnesses}group all 3 v1 v2 v3\nquorum all\n",
            {"registration": "open", "work": 0, "registrar": b"", "short": 3,
             "lifetime": 63_072_000},
        ),
        "by invitation": (
            f"{begin}registration invite\nregistrar {shown}\nshort 8\nlifetime 100\n"
            f"{witnesses}group some 2 v1 v2\ngroup both 2 some v3\nquorum both\n",
            {"registration": "invite", "work": 0, "registrar": registrar, "short": 8,
             "lifetime": 100},
        ),
        "by work": (
            f"{begin}registration work 20\nshort 3\nlifetime 100\n{witnesses}quorum v1\n",
            {"registration": "work", "work": 20, "registrar": b"", "short": 3, "lifetime": 100},
        ),
        "no work at first, and short names for nobody": (
            f"{begin}registration work 0\nshort 5\nlifetime 100\n{witnesses}quorum v1\n",
            {"registration": "work", "work": 0, "registrar": b"", "short": 5, "lifetime": 100},
        ),
    }  # fmt: skip
    open_, invited, work, _ = (each for each, _ in texts.values())
    wrong = {
        "empty": "",
        "no quorum": open_.replace("quorum all\n", ""),
        "a quorum of nobody": open_.replace("quorum all", "quorum nobody"),
        "an unknown registration": open_.replace("open", "closed"),
        "work with a zero in front": work.replace("work 20", "work 020"),
        "work of 41 bits": work.replace("work 20", "work 41"),
        "work without bits": work.replace("work 20", "work"),
        "names of 9 reserved": invited.replace("short 8", "short 9"),
        "invites without a registrar": invited.replace(f"registrar {shown}\n", ""),
        "a registrar of 31 bytes": invited.replace(shown, base64.b64encode(bytes(31)).decode()),
        "lifetime 0": open_.replace("63072000", "0"),
        "no newline at its end": open_[:-1],
        "lines in another order": open_.replace(
            "short 3\nlifetime 63072000\n", "lifetime 63072000\nshort 3\n"
        ),
        "two spaces": open_.replace("short 3", "short  3"),
        "a word for a threshold": open_.replace("group all 3", "group all all"),
        "a comment": open_.replace("quorum", "# a comment\nquorum"),
        "an address": open_.replace(log, f"{log} {HERE.url('cbfs-names')}"),
    }
    return [
        case(name, config=text, namespace=NAMESPACE, **told,
             hash=sha256(text.encode()).digest())
        for name, (text, told) in texts.items()
    ] + cases("config", wrong, error="malformed")  # fmt: skip


# What operations make of entries


@dataclass
class Chain:
    """An entry, and what has become of it, one case for each step."""

    entry: Entry
    cases: list[Case] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    links: list[bytes] = field(default_factory=list)

    def step(
        self,
        kind: OperationKind,
        seeds: tuple[bytes, ...],
        made: Case,
        time: int = 0,
        **rest: Any,
    ) -> Entry:
        """One operation by ``seeds``, which makes of the entry what ``made`` says."""
        old, round_ = self.entry, self.entry.round + 7
        operation = replace(_next(old, kind, **rest), expires=round_ + 9).signed(seeds)
        number = {"version": old.version + 1, "round": round_, "previous": old.digest()}
        after = replace(old, **{**number, **made})
        time = time or NOW + 100 * (len(self.cases) + 1)
        link = HistoryLink(round_, time, operation.encode()).encode()
        name = f"{len(self.cases)}: {kind.name}"
        self.cases.append(
            case(name, directory=DIRECTORY, before=old.encode(), link=link, after=after.encode())
        )
        self.entries.append(old)
        self.links.append(link)
        self.entry = after
        return after


def _next(entry: Entry, kind: OperationKind, **rest: Any) -> Operation:
    """An operation that could follow, not signed yet."""
    free = kind is OperationKind.FREEZE
    version, before = (0, ZERO) if free else (entry.version + 1, entry.digest())
    return Operation(kind, DIRECTORY, "alice", 1, version, before, 60, **rest)


def keys(*seeds: bytes) -> Keys:
    return Keys(1, tuple(sorted(sign_public(seed) for seed in seeds)))


def history() -> tuple[Chain, Entry, Entry, Entry]:
    """A name's life; as it was with an agent, suspended, and frozen."""
    chain, kind = Chain(make_entry("alice")), OperationKind
    new, heir, agent = keys(NEW_OWNER), keys(HEIR), sign_public(AGENT)
    chain.step(kind.UPDATE, (OWNER,), {"profile": b"new"}, profile=b"new")
    until = NOW + 2 * 10**6
    chain.step(kind.RENEW, (OWNER,), {"expires": until}, until=until)
    rotated: Case = {"owners": new, "recovery": heir, "profile": b"rotated", "agent": agent}
    served = chain.step(kind.ROTATE, (OWNER, NEW_OWNER), rotated, **rotated)
    taken: Case = {"heirs": keys(OWNER), "due": NOW + 400 + 7 * DAY}
    chain.step(kind.RECOVER, (HEIR, OWNER), taken, owners=keys(OWNER))
    over: Case = {"heirs": Keys(0, ()), "due": 0}
    chain.step(kind.CANCEL, (NEW_OWNER,), over)
    chain.step(kind.RENEW, (AGENT,), {"expires": until + 1}, until=until + 1)
    suspended = chain.step(kind.FREEZE, (AGENT,), {"status": Status.SUSPENDED})
    freed: Case = {"owners": new, "recovery": heir, "profile": b"free"}
    freed["agent"] = sign_public(NEW_AGENT)
    chain.step(kind.ROTATE, (NEW_OWNER,), {**freed, "status": Status.ACTIVE}, **freed)
    frozen = chain.step(kind.FREEZE, (NEW_OWNER,), {"status": Status.FROZEN})
    due = NOW + 1_000 + 7 * DAY
    chain.step(kind.RECOVER, (HEIR, OWNER), {"heirs": keys(OWNER), "due": due}, owners=keys(OWNER))
    mine: Case = {"owners": keys(OWNER), "status": Status.ACTIVE, "agent": b"", "profile": b"mine"}
    chain.step(kind.UPDATE, (OWNER,), {**over, **mine}, time=due, profile=b"mine")
    late = until + 1 + 30 * DAY
    ended: Case = {"status": Status.RELEASED, "profile": b"", "expires": until + 1}
    chain.step(kind.RELEASE, (OWNER,), ended, time=late)
    return chain, served, suspended, frozen


def chains() -> File:
    chain, served, suspended, frozen = history()
    recovered, released = chain.entries[-1], chain.entry
    wrong = {
        **_wrong_of_owners(served, frozen, released),
        **_wrong_of_agents(served, suspended, recovered),
    }
    active = make_entry("alice", expires=NOW + 10)
    gone = {"status": Status.RELEASED, "profile": b"", "expires": NOW + 5}
    released_now = Chain(active)
    released_now.step(OperationKind.RELEASE, (OWNER,), gone, time=NOW + 5)
    refused = [
        case(what, directory=DIRECTORY, before=before.encode(), error=reason,
             link=HistoryLink(8, time, operation.encode()).encode())
        for what, (before, operation, time, reason) in wrong.items()
    ]  # fmt: skip
    pending = Chain(replace(served, heirs=keys(OWNER), due=NOW + 7 * DAY))
    kept: Case = {"owners": keys(OWNER), "recovery": keys(HEIR), "profile": b"x", "agent": b""}
    pending.step(OperationKind.ROTATE, (OWNER, NEW_OWNER), kept, **kept)
    pending.step(OperationKind.UPDATE, (OWNER,), {"profile": b"y"}, profile=b"y")
    under_way = [
        {**each, "name": f"{each['name']} while a recovery is under way"} for each in pending.cases
    ]
    before_its_end = {**released_now.cases[0], "name": "RELEASE before the end"}
    return {
        "step": [*chain.cases, before_its_end, *under_way, *refused],
        "registration": _registrations(),
        "succession": _successions(chain),
    }


Wrong = dict[str, tuple[Entry, Operation, int, str]]
SOON = NOW + 100


def _wrong_of_owners(served: Entry, frozen: Entry, released: Entry) -> Wrong:
    first, kind = make_entry("alice"), OperationKind
    update = _next(first, kind.UPDATE, profile=b"x")
    own, both = (OWNER,), (OWNER, NEW_OWNER)
    end = first.expires + 30 * DAY
    two = replace(first, owners=Keys(2, keys(*both).keys))
    thaw = _next(frozen, kind.UPDATE, profile=b"x")
    forged = replace(update, signatures=((sign_public(OWNER), bytes(64)),))
    until = first.expires
    return {
        "of a frozen name": (frozen, thaw.signed((NEW_OWNER,)), SOON, "NAME_FROZEN"),
        "frozen again": (frozen, _next(frozen, kind.FREEZE).signed((NEW_OWNER,)), SOON,
                         "NAME_FROZEN"),
        "of a released name": (released, _next(released, kind.UPDATE, profile=b"x").signed(own),
                               SOON, "NAME_RELEASED"),
        "of another name": (first, replace(update, name="bob").signed(own), SOON, "NO_SUCH_NAME"),
        "of another directory": (first, replace(update, directory=bytes(16)).signed(own), SOON,
                                 "WRONG_DIRECTORY"),
        "of another version": (first, replace(update, version=3).signed(own), SOON,
                               "WRONG_VERSION"),
        "of another incarnation": (first, replace(update, incarnation=2).signed(own), SOON,
                                   "WRONG_VERSION"),
        "of another entry": (first, replace(update, previous=b"x" * 32).signed(own), SOON,
                             "WRONG_VERSION"),
        "signed by nobody who owns it": (first, update.signed((NEW_OWNER,)), SOON,
                                         "WRONG_SIGNATURE"),
        "signed by somebody else as well": (first, update.signed(both), SOON, "WRONG_SIGNATURE"),
        "signed by one of two": (two, _next(two, kind.UPDATE, profile=b"x").signed(own), SOON,
                                 "WRONG_SIGNATURE"),
        "with a forged signature": (first, forged, SOON, "WRONG_SIGNATURE"),
        "ROTATE that the new owner has not signed": (
            first, _next(first, kind.ROTATE, owners=keys(NEW_OWNER)).signed(own), SOON,
            "WRONG_SIGNATURE"),
        "of a round that is over": (first, replace(update, expires=7).signed(own), SOON,
                                    "OUT_OF_DATE"),
        "of a round too far ahead": (first, replace(update, expires=8 + 65_537).signed(own), SOON,
                                     "OUT_OF_DATE"),
        "a second after the grace": (first, update.signed(own), end + 1, "NAME_EXPIRED"),
        "RENEW to the same end": (first, _next(first, kind.RENEW, until=until).signed(own), SOON,
                                  "WRONG_TERM"),
        "RECOVER without recovery keys": (
            first, _next(first, kind.RECOVER, owners=keys(HEIR)).signed((HEIR,)), SOON,
            "NO_RECOVERY"),
        "RECOVER that the heir has not signed": (
            served, _next(served, kind.RECOVER, owners=keys(OWNER)).signed((HEIR,)), SOON,
            "WRONG_SIGNATURE"),
        "CANCEL of nothing": (first, _next(first, kind.CANCEL).signed(own), SOON, "NO_RECOVERY"),
        "REGISTER as a step": (
            first, _next(first, kind.REGISTER, secret=bytes(32), owners=keys(OWNER)).signed(own),
            SOON, "malformed"),
    }  # fmt: skip


def _wrong_of_agents(served: Entry, suspended: Entry, recovered: Entry) -> Wrong:
    """What an agent may not do, and nobody to a name that it has frozen."""
    kind = OperationKind
    same: Case = {"owners": served.owners, "recovery": served.recovery, "profile": b"x"}
    pending = replace(served, heirs=keys(OWNER), due=2**63)
    rests: dict[OperationKind, Case] = {
        kind.UPDATE: {"profile": b"x"},
        kind.ROTATE: same,
        kind.RELEASE: {},
        kind.RECOVER: {"owners": served.owners},
        kind.CANCEL: {},
    }
    wrong: Wrong = {
        f"{each.name} by an agent": (
            pending, _next(pending, each, **rest).signed((AGENT,)), SOON, "WRONG_SIGNATURE")
        for each, rest in rests.items()
    }  # fmt: skip
    for operation in (_next(served, kind.RENEW, until=2**40), _next(served, kind.FREEZE)):
        for whose, seeds in (
            ("another agent", (NEW_AGENT,)),
            ("agent and owner", (AGENT, NEW_OWNER)),
        ):
            name = f"{operation.kind.name} by {whose}"
            wrong[name] = served, operation.signed(seeds), SOON, "WRONG_SIGNATURE"
    renewed = _next(recovered, kind.RENEW, until=2**40).signed((NEW_AGENT,))
    wrong["RENEW by the agent of before a recovery"] = recovered, renewed, SOON, "WRONG_SIGNATURE"
    held: Case = {**same, "agent": suspended.agent}
    ends: dict[str, tuple[Operation, bytes]] = {
        "UPDATE": (_next(suspended, kind.UPDATE, profile=b"x"), NEW_OWNER),
        "RENEW": (_next(suspended, kind.RENEW, until=2**40), NEW_OWNER),
        "ROTATE with the same agent": (_next(suspended, kind.ROTATE, **held), NEW_OWNER),
        "FREEZE by its agent": (_next(suspended, kind.FREEZE), AGENT),
    }
    for what, (operation, seed) in ends.items():
        name = f"{what} of what an agent has frozen"
        wrong[name] = suspended, operation.signed((seed,)), SOON, "NAME_SUSPENDED"
    return wrong


def _registrations() -> list[Case]:
    lifetime, old = 1_000, make_entry("alice", expires=NOW)
    released = replace(old, status=Status.RELEASED, profile=b"")
    kept: Case = {"owners": keys(NEW_OWNER), "profile": b"p", "agent": sign_public(AGENT)}
    first = Operation(OperationKind.REGISTER, DIRECTORY, "alice", 1, 1, ZERO, 99,
                      secret=b"s" * 32, **kept)  # fmt: skip
    again = replace(first, incarnation=2, previous=old.digest())
    after = replace(again, previous=released.digest())
    made: list[tuple[str, Entry | None, Operation, int, tuple[bytes, ...], str]] = [
        ("of a new name", None, first, NOW, (NEW_OWNER,), ""),
        ("of a name that ran out", old, again, NOW + 120 * DAY + 1, (NEW_OWNER,), ""),
        ("of a name that was given up", released, after, NOW + 90 * DAY + 1, (NEW_OWNER,), ""),
        ("in the last second of its quarantine", old, again, NOW + 120 * DAY, (NEW_OWNER,),
         "NAME_TAKEN"),
        ("in the last second after it was given up", released, after, NOW + 90 * DAY,
         (NEW_OWNER,), "NAME_TAKEN"),
        ("by whoever has it", make_entry("alice"), replace(again, owners=keys(OWNER)), NOW,
         (OWNER,), "NAME_TAKEN"),
        ("of another incarnation", old, replace(again, incarnation=3), NOW + 121 * DAY,
         (NEW_OWNER,), "WRONG_VERSION"),
        ("as if it were new", old, first, NOW + 121 * DAY, (NEW_OWNER,), "WRONG_VERSION"),
        ("not signed by the owner", None, first, NOW, (OWNER,), "WRONG_SIGNATURE"),
        ("signed by somebody else as well", None, first, NOW, (OWNER, NEW_OWNER),
         "WRONG_SIGNATURE"),
    ]  # fmt: skip
    found = []
    for name, before, operation, time, seeds, error in made:
        entry = Entry("alice", operation.incarnation, 1, Status.ACTIVE, time + lifetime, 20,
                      operation.previous, recovery=Keys(0, ()), **kept)  # fmt: skip
        result: Case = {"error": error} if error else {"after": entry.encode()}
        found.append(case(name, before=before.encode() if before else None,
                          operation=operation.signed(seeds).encode(), round=20, time=time,
                          lifetime=lifetime, **result))  # fmt: skip
    return found


def _successions(chain: Chain) -> list[Case]:
    entries, links = [*chain.entries, chain.entry], chain.links
    first, fifth = entries[0], entries[5]
    other = replace(fifth, profile=b"other")
    made: dict[str, tuple[Entry, Entry, list[bytes], str]] = {
        "the same entry": (first, first, [], ""),
        "one step": (first, entries[1], links[:1], ""),
        "five steps": (first, fifth, links[:5], ""),
        "more links than are needed": (entries[3], fifth, links[:5], ""),
        "another entry of the same version": (first, replace(first, profile=b"x"), [],
                                              "SAME_VERSION"),
        "a link too few": (first, fifth, links[1:5], "CHAIN"),
        "links in another order": (first, fifth, [*links[3:5], *links[:3]], "CHAIN"),
        "another entry than they make": (first, other, links[:5], "CHAIN"),
        "links of other versions": (first, entries[1], links[1:2], "CHAIN"),
        "another incarnation": (first, replace(fifth, incarnation=2), links[:5], "changed"),
        "owners that a recovery has made": (entries[10], entries[11], links[10:11], "changed"),
    }  # fmt: skip
    found = []
    for name, (known, entry, steps, error) in made.items():
        result = {"error": error} if error else {}
        found.append(case(name, directory=DIRECTORY, known=known.encode(), entry=entry.encode(),
                          links=steps, **result))  # fmt: skip
    return found


FILES: dict[str, Callable[[], File]] = {"names-policies": policies, "names-chains": chains}
