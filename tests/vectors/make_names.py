"""What the files names-*.json hold of entries, operations and trees; see tests.vectors.make. With
fixed keys. Where a class of the programs encodes something, the naive readers hold it to the
text."""

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from typing import Any

from cbfs_common.names.entry import Entry, Keys, Status
from cbfs_common.names.operations import (
    NEVER,
    Operation,
    OperationKind,
    commitment,
    registration_salt,
)
from cbfs_common.names.trees import MapProof, Terminal
from cbfs_common.person import Person
from cbfs_common.primitives import sign_public
from tests.support.naive_names import encoded_keys, index, map_proof, position
from tests.support.names_naive import (
    DIRECTORY,
    NOW,
    ZERO,
    log_consistency,
    log_path,
    log_root,
    make_entry,
    subtree,
)
from tests.support.names_naive import map_proof as make_map_proof
from tests.vectors.cases import Case, File, case, cases

OWNER, NEW_OWNER, AGENT = b"o" * 32, b"p" * 32, b"a" * 32
REGISTRAR, GUEST = b"r" * 32, b"g" * 32


def keys_of(keys: Keys) -> list[Any]:
    return [keys.threshold, list(keys.keys)]


# Entries and operations


def entries() -> File:
    two = Keys(2, tuple(sorted((sign_public(OWNER), sign_public(NEW_OWNER)))))
    five = Keys(1, tuple(sorted(sign_public(bytes([n]) * 32) for n in range(5))))
    made = [
        make_entry("bob"),
        make_entry("alice-b_c", incarnation=3, version=70_000, round=2**40, previous=b"h" * 32),
        make_entry("x" * 32, owners=two, recovery=two, profile=bytes(1_024), expires=2**63),
        make_entry("carol", status=Status.FROZEN, recovery=two, heirs=two, due=NOW),
        make_entry("dave", status=Status.SUSPENDED, agent=sign_public(AGENT)),
        make_entry("erin", status=Status.RELEASED, profile=b""),
        make_entry("frank", owners=five),
    ]
    data, owners = made[0].encode(), encoded_keys(keys_of(made[0].owners))
    bad = {
        "nothing": b"",
        "cut short": data[:-1],
        "bytes left over": data + b"\x00",
        "another version of the layout": b"\x02" + data[1:],
        "a name with capitals": data[:2] + b"Bob" + data[5:],
        "incarnation 0": data[:5] + bytes(4) + data[9:],
        "version 0": data[:9] + bytes(4) + data[13:],
        "status 0": data[:13] + b"\x00" + data[14:],
        "status 5": data[:13] + b"\x05" + data[14:],
        "heirs of no day": replace(made[3], due=0).encode(),
        "a day without heirs": replace(made[0], due=NOW).encode(),
        "no owners": data.replace(owners, b"\0\0"),
        "a threshold of 0": data.replace(owners, b"\0" + owners[1:]),
        "a threshold of 2 of 1": data.replace(owners, b"\2" + owners[1:]),
        "a threshold without keys": data.replace(owners + b"\0\0", owners + b"\1\0"),
        "owners not sorted": _two(data, owners, two.keys[1] + two.keys[0]),
        "an owner twice": _two(data, owners, two.keys[0] * 2),
        "six owners": data.replace(owners, b"\1\6" + b"".join(bytes([n]) * 32 for n in range(6))),
        "an agent key of 31 bytes": replace(made[4], agent=bytes(31)).encode(),
        "profile of 1025 bytes": replace(made[0], profile=bytes(1_025)).encode(),
    }
    return {
        "entry": [_entry(each) for each in made] + cases("entry", bad, error="malformed"),
        "index": [
            case(name, directory=DIRECTORY, person=name, index=index(DIRECTORY, name))
            for name in ("bob", "x" * 32)
        ],
    }


def _two(data: bytes, owners: bytes, keys: bytes) -> bytes:
    return data.replace(owners, b"\1\2" + keys)


def _entry(entry: Entry) -> Case:
    return case(
        entry.name,
        entry=entry.encode(),
        person=entry.name,
        incarnation=entry.incarnation,
        version=entry.version,
        status=int(entry.status),
        expires=entry.expires,
        round=entry.round,
        previous=entry.previous,
        owners=keys_of(entry.owners),
        recovery=keys_of(entry.recovery),
        heirs=keys_of(entry.heirs),
        due=entry.due,
        agent=entry.agent,
        profile=entry.profile,
        hash=entry.digest(),
    )


def signed_operations() -> dict[str, Operation]:
    """One of each kind."""
    owners, new = (Keys(1, (sign_public(seed),)) for seed in (OWNER, NEW_OWNER))
    alice = Person(DIRECTORY, "alice")
    salt = registration_salt(OWNER, alice)
    base = Operation(OperationKind.UPDATE, DIRECTORY, "alice", 1, 2,
                     make_entry("alice").digest(), 99, profile=b"new profile")  # fmt: skip
    nameless = Operation(OperationKind.COMMIT, DIRECTORY, "", 0, 0, ZERO, 99)
    plain, first = replace(base, profile=b""), replace(base, version=1, previous=ZERO)
    kind, both = OperationKind, (OWNER, NEW_OWNER)
    made: dict[OperationKind, tuple[Operation, tuple[bytes, ...]]] = {
        kind.COMMIT: (replace(nameless, secret=commitment(alice, owners, salt), work=7), ()),
        kind.REGISTER: (replace(first, secret=salt, owners=owners), (OWNER,)),
        kind.UPDATE: (base, (OWNER,)),
        kind.ROTATE: (replace(base, owners=new, recovery=owners, agent=sign_public(AGENT)), both),
        kind.RENEW: (replace(plain, until=NOW + 2 * 10**6), (OWNER,)),
        kind.RELEASE: (plain, (OWNER,)),
        kind.FREEZE: (replace(plain, version=0, previous=ZERO, expires=NEVER), (OWNER,)),
        kind.RECOVER: (replace(plain, owners=new), both),
        kind.CANCEL: (plain, (OWNER,)),
        kind.CONFIGURE: (replace(nameless, previous=b"c" * 32, terms="a text\n"), (OWNER,)),
    }  # fmt: skip
    found = {}
    for each, (operation, seeds) in made.items():
        of_kind = replace(operation, kind=each)
        found[each.name] = of_kind.signed(seeds) if seeds else of_kind
    return found


def operations() -> File:
    signed = signed_operations()
    update, rotate = signed["UPDATE"], signed["ROTATE"]
    data = update.encode()
    invited = replace(signed["COMMIT"], invite=bytes(256)).signed((GUEST,))
    forged = replace(update, signatures=((sign_public(OWNER), bytes(64)),))
    bad = {
        "nothing": b"",
        "no signature": replace(update, signatures=()).encode(),
        "another version of the layout": b"\x02" + data[1:],
        "kind 0": data[:1] + b"\x00" + data[2:],
        "kind 11": data[:1] + b"\x0b" + data[2:],
        "a COMMIT with two signatures": signed["COMMIT"].encode()[:-1] + b"\x02" + bytes(192),
        "a COMMIT with a name": signed["COMMIT"].encode()[:18] + b"\3bob"
        + signed["COMMIT"].encode()[19:],
        "a COMMIT of a version": replace(signed["COMMIT"], version=1).encode(),
        "an invite of 257 bytes": replace(invited, invite=bytes(257)).encode(),
        "an UPDATE of version 0": replace(update, version=0).encode(),
        "an UPDATE of incarnation 0": replace(update, incarnation=0).encode(),
        "a FREEZE of one version": replace(signed["FREEZE"], version=2).encode(),
        "a FREEZE of one entry": replace(signed["FREEZE"], previous=b"x" * 32).encode(),
        "a RECOVER without heirs": replace(signed["RECOVER"], owners=Keys(0, ())).encode(),
        "a ROTATE without owners": replace(rotate, owners=Keys(0, ())).encode(),
        "an agent key of 31 bytes": replace(rotate, agent=bytes(31)).encode(),
        "profile of 1025 bytes": replace(update, profile=bytes(1_025)).encode(),
        "eleven signatures": replace(update, signatures=_many(11)).encode(),
        "a CONFIGURE with 33 signatures": replace(
            signed["CONFIGURE"], signatures=_many(33)).encode(),
        "a CONFIGURE without a signature": replace(signed["CONFIGURE"], signatures=()).encode(),
        "signatures out of order": replace(rotate, signatures=rotate.signatures[::-1]).encode(),
        "a signature twice": replace(update, signatures=update.signatures * 2).encode(),
        "cut short": data[:-1],
        "bytes left over": data + b"\0",
    }  # fmt: skip
    good = [_operation(kind, operation) for kind, operation in signed.items()]
    good += [
        _operation("COMMIT with an invite", invited),
        _operation("with a forged signature", forged, genuine=False),
        _operation("with ten signatures", replace(update, signatures=_many(10)), genuine=False),
        _operation(
            "CONFIGURE with 32 signatures",
            replace(signed["CONFIGURE"], signatures=_many(32)),
            genuine=False,
        ),
    ]
    return {
        "operation": good + cases("operation", bad, error="malformed"),
        "salt": [case("alice", seed=OWNER, directory=DIRECTORY, person="alice",
                      salt=registration_salt(OWNER, Person(DIRECTORY, "alice")))],
        "commitment": [
            case("alice", directory=DIRECTORY, person="alice",
                 owners=keys_of(Keys(1, (sign_public(OWNER),))), salt=b"s" * 32,
                 commitment=commitment(Person(DIRECTORY, "alice"),
                                       Keys(1, (sign_public(OWNER),)), b"s" * 32))
        ],
    }  # fmt: skip


def _many(count: int) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((bytes([number]) * 32, bytes(64)) for number in range(count))


def _operation(name: str, operation: Operation, *, genuine: bool = True) -> Case:
    return case(
        name,
        operation=operation.encode(),
        what=operation.kind.name,
        directory=operation.directory,
        person=operation.name,
        incarnation=operation.incarnation,
        version=operation.version,
        previous=operation.previous,
        expires=operation.expires,
        secret=operation.secret,
        owners=keys_of(operation.owners),
        recovery=keys_of(operation.recovery),
        agent=operation.agent,
        profile=operation.profile,
        until=operation.until,
        work=operation.work,
        invite=operation.invite,
        terms=operation.terms,
        body=operation.body(),
        signers=[key for key, _ in operation.signatures],
        genuine=genuine,
    )


# Trees


def trees() -> File:
    names = [f"name{n}" for n in range(12)]
    many = {index(DIRECTORY, name): sha256(name.encode()).digest() for name in names}
    near = {bytes(31) + bytes([n]): sha256(bytes([n])).digest() for n in (0, 1, 3)}
    one = dict([next(iter(many.items()))])
    found: dict[str, tuple[dict[bytes, bytes], list[bytes]]] = {
        "no names": ({}, [b"\xff" * 32]),
        "one name": (one, [*one, b"\xff" * 32]),
        "names": (many, [*list(many)[:3], index(DIRECTORY, "nobody")]),
        "indexes that share 254 bits": (near, [*near, bytes(31) + b"\x02", b"\xff" * 32]),
    }
    leaves = [sha256(b"\x00" + bytes([n])).digest() for n in range(21)]
    sizes = (1, 2, 3, 7, 8, 13, 21)
    return {
        "map root": [
            case(what, leaves=[[i, v] for i, v in tree.items()], root=_map_root(tree))
            for what, (tree, _) in found.items()
        ],
        "map proof": [
            _map_case(f"{what}, {number}", tree, asked)
            for what, (tree, several) in found.items()
            for number, asked in enumerate(several)
        ] + _wrong_maps(many),
        "log root": [case(f"{n} leaves", leaves=leaves[:n], root=log_root(leaves[:n]))
                     for n in (0, *sizes)],
        "log inclusion": _inclusions(leaves, sizes),
        "log consistency": _consistencies(leaves, sizes),
        "position": [case(f"{n} leaves", leaves=leaves[:n], position=position(leaves[:n]))
                     for n in (0, *sizes)],
    }  # fmt: skip


def _map_root(tree: dict[bytes, bytes]) -> bytes:
    return subtree(tree, "")


def _map_case(name: str, tree: dict[bytes, bytes], asked: bytes) -> Case:
    proof = make_map_proof(tree, asked).encode()
    return case(name, root=_map_root(tree), index=asked, value=tree.get(asked), proof=proof)


def _wrong_maps(leaves: dict[bytes, bytes]) -> list[Case]:
    asked, value = next(iter(leaves.items()))
    good = make_map_proof(leaves, asked)
    foreign = next(other for other in leaves if other[0] >> 7 != asked[0] >> 7)
    lie = MapProof(good.siblings, Terminal.OTHER, foreign, leaves[foreign])
    itself = MapProof(good.siblings, Terminal.OTHER, asked, value)
    data, depth = good.encode(), len(good.siblings)
    zeros = MapProof((*good.siblings, ZERO), good.terminal).encode()
    assert map_proof(data)["terminal"] == 1
    wrong: dict[str, tuple[bytes, bytes | None, str]] = {
        "a leaf of another place": (lie.encode(), None, "unproven"),
        "the asked leaf as another one": (itself.encode(), None, "unproven"),
        "another value": (data, sha256(b"x").digest(), "unproven"),
        "absence of what is there": (data, None, "unproven"),
        "a sibling changed": (data[:10] + bytes([data[10] ^ 1]) + data[11:], value, "unproven"),
        "bytes left over": (data + b"\x00", value, "malformed"),
        "cut short": (data[:-1], value, "malformed"),
        "depth 0": (bytes(2) + data[2:], value, "malformed"),
        "depth 257": (b"\1\1" + data[2:], value, "malformed"),
        "a spare bit set": (data[:2] + bytes([data[2] | 1]) + data[3:], value, "malformed"),
        "an only child below the root": (zeros, value, "malformed"),
        "a sibling of zeros": (data[:3] + bytes(32) + data[35:], value, "malformed"),
        "terminal 3": (data[:-1] + b"\3", value, "malformed"),
    }
    assert depth < 8
    return [
        case(what, root=_map_root(leaves), index=asked, value=claimed, proof=proof, error=error)
        for what, (proof, claimed, error) in wrong.items()
    ]


def _inclusions(leaves: list[bytes], sizes: tuple[int, ...]) -> list[Case]:
    made = []
    for size in sizes:
        for number in sorted({0, size // 2, size - 1}):
            made.append(case(f"{number} of {size}", number=number, size=size, leaf=leaves[number],
                             proof=log_path(number, leaves[:size]),
                             root=log_root(leaves[:size])))  # fmt: skip
    base = {"number": 12, "size": 13, "leaf": leaves[12], "root": log_root(leaves[:13])}
    proof = log_path(12, leaves[:13])
    wrong: dict[str, dict[str, Any]] = {
        "another leaf": {"leaf": leaves[0]},
        "another number": {"number": 11},
        "a number past the end": {"number": 13},
        "another root": {"root": leaves[0]},
        "a hash too few": {"proof": proof[:-1]},
        "a hash too many": {"proof": [*proof, leaves[0]]},
        "hashes in another order": {"proof": proof[::-1]},
    }
    return made + [
        case(what, **{**base, "proof": proof, **change}, error="unproven")
        for what, change in wrong.items()
    ]


def _consistencies(leaves: list[bytes], sizes: tuple[int, ...]) -> list[Case]:
    made = []
    for size in sizes:
        for old in sorted({1, 2, 3, 6, 8, 12, size}):
            if old <= size:
                name = f"{old} and {size}" if old < size else f"{size} and itself"
                proof = log_consistency(old, leaves[:size]) if old < size else []
                made.append(case(name, old_size=old, size=size, old_root=log_root(leaves[:old]),
                                 root=log_root(leaves[:size]), proof=proof))  # fmt: skip
    base = {"old_size": 6, "size": 13, "old_root": log_root(leaves[:6])}
    base |= {"root": log_root(leaves[:13])}
    proof = log_consistency(6, leaves[:13])
    wrong: dict[str, dict[str, Any]] = {
        "from 0": {"old_size": 0},
        "to fewer": {"old_size": 14},
        "another old root": {"old_root": leaves[0]},
        "another root": {"root": leaves[0]},
        "a hash too few": {"proof": proof[:-1]},
        "a hash too many": {"proof": [*proof, leaves[0]]},
        "hashes for the same size": {"old_size": 13, "old_root": log_root(leaves[:13])},
    }
    return made + [
        case(what, **{**base, "proof": proof, **change}, error="unproven")
        for what, change in wrong.items()
    ]


FILES: dict[str, Callable[[], File]] = {
    "names-entries": entries,
    "names-operations": operations,
    "names-trees": trees,
}
