"""Write tests/vectors/names-*.json: ``python tests/vectors/make_names_vectors.py``.

Made with the naive model and fixed keys, not with the server. Every value is hex or text; a case
that must fail names its error. A test holds the files equal to what this script makes.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "common"), str(ROOT / "server")]

from cbfs_common.names.entry import (  # noqa: E402
    Keys,
    Status,
    changes_hash,
    name_index,
    operations_hash,
)
from cbfs_common.names.layout import ZERO  # noqa: E402
from cbfs_common.names.note import cosign, sign_checkpoint  # noqa: E402
from cbfs_common.names.operations import (  # noqa: E402
    NEVER,
    Operation,
    OperationKind,
    Refusal,
    commitment,
    registration_salt,
)
from cbfs_common.names.proofs import encode_bundle  # noqa: E402
from cbfs_common.names.trees import MapProof, Terminal  # noqa: E402
from cbfs_common.names.wire import (  # noqa: E402
    AskHistory,
    LookedUp,
    Lookup,
    RefusedReply,
    Reply,
    Request,
    Steps,
    Submit,
    Submitted,
    encode_reply,
    encode_request,
)
from cbfs_common.person import Person  # noqa: E402
from cbfs_common.primitives import sign_public  # noqa: E402
from cbfs_common.profile import Address  # noqa: E402
from tests.support import names_check_cases, names_plain_cases  # noqa: E402
from tests.support.names_naive import (  # noqa: E402
    DIRECTORY,
    LOG_SEED,
    NAMESPACE,
    NOW,
    Forger,
    log_consistency,
    log_path,
    log_root,
    make_entry,
    make_policy,
    map_proof,
    subtree,
    verifier_key,
    verifier_seed,
)

VECTORS = Path(__file__).parent
OWNER, NEW_OWNER = b"o" * 32, b"p" * 32
HERE = Address(bytes(range(32)), "127.0.0.1", 7701)
Case = dict[str, Any]


def entries() -> list[Case]:
    two = Keys(2, tuple(sorted((sign_public(OWNER), sign_public(NEW_OWNER)))))
    made = [
        make_entry("bob"),
        make_entry("alice-b_c", incarnation=3, version=70_000, round=2**40, previous=b"h" * 32),
        make_entry("x" * 32, owners=two, recovery=two, profile=bytes(1_024), expires=2**63),
        make_entry("carol", status=Status.FROZEN, recovery=two, heirs=two, due=NOW),
    ]
    good: list[Case] = [
        {
            "name": entry.name,
            "entry": entry.encode().hex(),
            "hash": entry.digest().hex(),
            "index": name_index(DIRECTORY, entry.name).hex(),
        }
        for entry in made
    ]
    data = made[0].encode()
    bad = {
        "cut short": data[:-1],
        "bytes left over": data + b"\x00",
        "another version of the layout": b"\x02" + data[1:],
        "a name with capitals": data[:2] + b"Bob" + data[5:],
        "version 0": data[:9] + bytes(4) + data[13:],
        "heirs of no day": replace(made[3], due=0).encode(),
        "an unknown status": data[:13] + b"\x09" + data[14:],
    }
    return good + [
        {"what": what, "entry": each.hex(), "error": "DecodeError"} for what, each in bad.items()
    ]


def operations() -> list[Case]:
    entry = make_entry("alice")
    owners = Keys(1, (sign_public(OWNER),))
    salt = registration_salt(OWNER, Person(DIRECTORY, "alice"))
    hidden = commitment(Person(DIRECTORY, "alice"), owners, salt)
    base = Operation(
        OperationKind.UPDATE, DIRECTORY, "alice", 1, 2, entry.digest(), 99, profile=b"new profile"
    )
    new = Keys(1, (sign_public(NEW_OWNER),))
    made = {
        "COMMIT": (Operation(OperationKind.COMMIT, DIRECTORY, "", 0, 0, ZERO, 99, hidden), ()),
        "REGISTER": (
            replace(
                base,
                kind=OperationKind.REGISTER,
                version=1,
                previous=ZERO,
                secret=salt,
                owners=owners,
            ),
            (OWNER,),
        ),
        "UPDATE": (base, (OWNER,)),
        "ROTATE": (replace(base, kind=OperationKind.ROTATE, owners=new), (OWNER, NEW_OWNER)),
        "RENEW": (replace(base, kind=OperationKind.RENEW, until=NOW + 2 * 10**6), (OWNER,)),
        "RELEASE": (replace(base, kind=OperationKind.RELEASE), (OWNER,)),
        "FREEZE": (
            replace(base, kind=OperationKind.FREEZE, version=0, previous=ZERO, expires=NEVER),
            (OWNER,),
        ),
        "RECOVER": (replace(base, kind=OperationKind.RECOVER, owners=new), (OWNER, NEW_OWNER)),
        "CANCEL": (replace(base, kind=OperationKind.CANCEL), (OWNER,)),
        "CONFIGURE": (
            Operation(
                OperationKind.CONFIGURE, DIRECTORY, "", 0, 0, b"c" * 32, 99, terms="a text\n"
            ),
            (OWNER,),
        ),
    }
    signed = {
        kind: operation.signed(seeds) if seeds else operation
        for kind, (operation, seeds) in made.items()
    }
    good: list[Case] = [
        {
            "kind": kind,
            "owner_seed": OWNER.hex(),
            "operation": operation.encode().hex(),
            "signed": operation.body().hex(),
        }
        for kind, operation in signed.items()
    ]
    data = signed["UPDATE"].encode()
    bad = {
        "no signature": base.encode(),
        "an unknown kind": data[:1] + b"\x63" + data[2:],
        "a COMMIT with two signatures": signed["COMMIT"].encode()[:-1] + b"\x02" + bytes(192),
        "a FREEZE of one version": replace(signed["FREEZE"], version=2).encode(),
        "cut short": data[:-1],
        "signatures out of order": _swapped(signed["ROTATE"]),
    }
    return good + _not_decoded("operation", bad)


def _not_decoded(field: str, bad: dict[str, bytes]) -> list[Case]:
    return [{"what": what, field: data.hex(), "error": "DecodeError"} for what, data in bad.items()]


def _swapped(operation: Operation) -> bytes:
    return replace(operation, signatures=operation.signatures[::-1]).encode()


def hashes() -> list[Case]:
    made = (b"one", b"second operation")
    changes = (b"\x01" * 8, b"\x02" * 8)
    return [
        {
            "operations": [each.hex() for each in made],
            "operations_hash": operations_hash(made).hex(),
            "changes": [each.hex() for each in changes],
            "changes_hash": changes_hash(changes).hex(),
        }
    ]


def maps() -> list[Case]:
    names = [f"name{n}" for n in range(12)]
    leaves = {name_index(DIRECTORY, name): sha256(name.encode()).digest() for name in names}
    near = {bytes(31) + bytes([n]): sha256(bytes([n])).digest() for n in (0, 1, 3)}
    cases: list[Case] = [{"what": "no names", "leaves": {}, "root": subtree({}, "").hex()}]
    for what, tree, asked in (
        ("names", leaves, [*list(leaves)[:3], name_index(DIRECTORY, "nobody")]),
        ("indexes that share 254 bits", near, [*near, bytes(31) + b"\x02", b"\xff" * 32]),
        ("one name", dict([next(iter(leaves.items()))]), [next(iter(leaves)), b"\xff" * 32]),
    ):
        cases.append(
            {
                "what": what,
                "leaves": {index.hex(): value.hex() for index, value in tree.items()},
                "root": subtree(tree, "").hex(),
                "proofs": [_map_case(tree, index) for index in asked],
            }
        )
    return cases + _wrong_maps(leaves)


def _map_case(tree: dict[bytes, bytes], index: bytes) -> Case:
    value = tree.get(index)
    return {
        "index": index.hex(),
        "value": value.hex() if value else None,
        "proof": map_proof(tree, index).encode().hex(),
    }


def _wrong_maps(leaves: dict[bytes, bytes]) -> list[Case]:
    index, value = next(iter(leaves.items()))
    good = map_proof(leaves, index)
    foreign = next(other for other in leaves if other[0] >> 7 != index[0] >> 7)
    lie = MapProof(good.siblings, Terminal.OTHER, foreign, leaves[foreign])
    data = good.encode()
    wrong = {
        "a leaf of another place": (lie.encode(), None, "not proven"),
        "another value": (data, sha256(b"x").digest(), "not proven"),
        "absence of what is there": (data, None, "not proven"),
        "bytes left over": (data + b"\x00", value, "DecodeError"),
        "no siblings": (bytes(2) + data[2:], value, "DecodeError"),
    }
    root = subtree(leaves, "").hex()
    return [
        {
            "what": what,
            "root": root,
            "index": index.hex(),
            "value": claimed.hex() if claimed else None,
            "proof": proof.hex(),
            "error": error,
        }
        for what, (proof, claimed, error) in wrong.items()
    ]


def logs() -> list[Case]:
    leaves = [sha256(b"\x00" + bytes([n])).digest() for n in range(21)]
    cases: list[Case] = []
    for size in (1, 2, 3, 7, 8, 13, 21):
        tree = leaves[:size]
        olds = [old for old in (1, 2, 3, 6, 8, 12) if old < size]
        cases.append(
            {
                "leaves": [leaf.hex() for leaf in tree],
                "root": log_root(tree).hex(),
                "last": [each.hex() for each in log_path(size - 1, tree)],
                "consistency": {
                    str(old): [each.hex() for each in log_consistency(old, tree)] for old in olds
                },
            }
        )
    return cases


def heads() -> list[Case]:
    text = Forger([make_entry("alice")]).note().text
    return [
        {
            "log_seed": LOG_SEED.hex(),
            "verifier_seed": verifier_seed(1).hex(),
            "verifier_key": verifier_key(1).encode(),
            "time": NOW,
            "text": text.decode(),
            "log_line": sign_checkpoint(LOG_SEED, NAMESPACE, text).encode(),
            "cosignature_line": cosign(verifier_seed(1), verifier_key(1).name, NOW, text).encode(),
        }
    ]


def bundles() -> list[Case]:
    policy = make_policy(HERE, 3, 2).encode()
    forger = Forger([make_entry("alice"), make_entry("bob")], signers=(1, 3))
    cases: list[Case] = [
        {
            "policy": policy,
            "bundle": encode_bundle(DIRECTORY, forger.look_up("alice").evidence, ()).hex(),
            "entry": make_entry("alice").encode().hex(),
        }
    ]
    lies: dict[str, Forger] = {
        "QUORUM": replace(forger, signers=(1,)),
        "NAMESPACE": replace(forger, origin="other/log"),
        "CONFIG": replace(forger, config=bytes(32)),
        "LAST_ROUND": replace(forger, number_off=1),
    }
    for fault, lie in lies.items():
        data = encode_bundle(DIRECTORY, lie.look_up("alice").evidence, ())
        cases.append({"policy": policy, "bundle": data.hex(), "error": fault})
    reply = forger.look_up("alice")
    wrong = replace(reply.evidence, entry=replace(make_entry("alice"), version=2).encode())
    data = encode_bundle(DIRECTORY, wrong, ())
    cases.append({"policy": policy, "bundle": data.hex(), "error": "MAP_PROOF"})
    return cases


def messages() -> list[Case]:
    reply: LookedUp = Forger([make_entry("alice")]).look_up("alice")
    requests: dict[str, Request] = {
        "lookup": Lookup("alice"),
        "history": AskHistory("alice", 1, 2),
        "submit": Submit(b"an operation"),
    }
    replies: dict[str, Reply] = {
        "looked up": reply,
        "steps": Steps(()),
        "submitted": Submitted(7),
        "refused": RefusedReply(Refusal.NAME_TAKEN),
    }
    asked = [{"request": what, "payload": encode_request(r).hex()} for what, r in requests.items()]
    told = [{"reply": what, "payload": encode_reply(r).hex()} for what, r in replies.items()]
    return asked + told


FILES: dict[str, Callable[[], list[Case]]] = {
    "names-entries.json": entries,
    "names-operations.json": operations,
    "names-hashes.json": hashes,
    "names-map.json": maps,
    "names-log.json": logs,
    "names-heads.json": heads,
    "names-bundles.json": bundles,
    "names-messages.json": messages,
    **names_plain_cases.FILES,
    **names_check_cases.FILES,
}


def text_of(file: str) -> str:
    """What the file holds."""
    return json.dumps(FILES[file](), indent=1) + "\n"


def main() -> None:
    """Write all files."""
    VECTORS.mkdir(exist_ok=True)
    for file in FILES:
        (VECTORS / file).write_text(text_of(file))


if __name__ == "__main__":
    main()
