"""The vectors of tests/vectors/names-*.json: what the code makes of each, and that the script
still makes the same files."""

import json
from typing import Any

import pytest

from cbfs_common.errors import DecodeError
from cbfs_common.names.checks import (
    Absent,
    DirectoryLies,
    Found,
    NameExpired,
    check_bundle,
    check_lookup,
    check_succession,
    decode_state,
)
from cbfs_common.names.entry import (
    changes_hash,
    decode_entry,
    entry_hash,
    name_index,
    operations_hash,
)
from cbfs_common.names.layout import Fields
from cbfs_common.names.note import cosign, sign_checkpoint
from cbfs_common.names.operations import (
    HistoryLink,
    OperationRefused,
    decode_operation,
    read_link,
)
from cbfs_common.names.policy import parse_policy
from cbfs_common.names.trees import decode_map_proof, extends, includes
from cbfs_common.names.wire import (
    LookedUp,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
)
from tests.support.names_naive import (
    DIRECTORY,
    NAMESPACE,
    make_policy,
)
from tests.vectors.make_names_vectors import FILES, HERE, VECTORS, text_of

Case = dict[str, Any]


def cases(kind: str, *, wrong: bool = False) -> list[Case]:
    found = json.loads((VECTORS / f"names-{kind}.json").read_text())
    return [case for case in found if ("error" in case) is wrong]


def raw(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)


@pytest.mark.parametrize("file", FILES)
def test_script_makes_the_files(file: str) -> None:
    assert (VECTORS / file).read_text() == text_of(file)


def test_entries() -> None:
    for case in cases("entries"):
        data = bytes.fromhex(case["entry"])
        entry = decode_entry(data)
        assert (entry.name, entry.encode()) == (case["name"], data)
        assert entry_hash(data).hex() == case["hash"]
        assert name_index(DIRECTORY, entry.name).hex() == case["index"]


def test_operations_and_their_signatures() -> None:
    for case in cases("operations"):
        operation = decode_operation(bytes.fromhex(case["operation"]))
        assert operation.kind.name == case["kind"]
        assert operation.body().hex() == case["signed"]
        assert len(operation.signers()) == len(operation.signatures)


def test_hashes_of_lists() -> None:
    for case in cases("hashes"):
        made = tuple(bytes.fromhex(each) for each in case["operations"])
        changes = tuple(bytes.fromhex(each) for each in case["changes"])
        assert operations_hash(made).hex() == case["operations_hash"]
        assert changes_hash(changes).hex() == case["changes_hash"]


def test_what_no_decoder_takes() -> None:
    for kind, decode in (("entries", decode_entry), ("operations", decode_operation)):
        for case in cases(kind, wrong=True):
            data = bytes.fromhex(case["entry" if kind == "entries" else "operation"])
            assert case["error"] == "DecodeError"
            with pytest.raises(DecodeError):
                decode(data)


def test_map_proofs() -> None:
    for case in cases("map"):
        root = bytes.fromhex(case["root"])
        for proof in case.get("proofs", ()):
            found = decode_map_proof(bytes.fromhex(proof["proof"]))
            assert found.proves(root, bytes.fromhex(proof["index"]), raw(proof["value"]))


def test_wrong_map_proofs() -> None:
    for case in cases("map", wrong=True):
        data, root = bytes.fromhex(case["proof"]), bytes.fromhex(case["root"])
        if case["error"] == "DecodeError":
            with pytest.raises(DecodeError):
                decode_map_proof(data)
        else:
            proof = decode_map_proof(data)
            assert not proof.proves(root, bytes.fromhex(case["index"]), raw(case["value"]))


def test_log_proofs() -> None:
    roots = {}
    for case in cases("log"):
        leaves = [bytes.fromhex(leaf) for leaf in case["leaves"]]
        root, size = bytes.fromhex(case["root"]), len(leaves)
        roots[size] = root
        last = tuple(bytes.fromhex(each) for each in case["last"])
        assert includes(size - 1, size, leaves[-1], last, root)
        for old, proof in case["consistency"].items():
            steps = tuple(bytes.fromhex(each) for each in proof)
            if int(old) in roots:
                assert extends(int(old), size, roots[int(old)], root, steps)


def test_head_lines() -> None:
    for case in cases("heads"):
        text = case["text"].encode()
        line = sign_checkpoint(bytes.fromhex(case["log_seed"]), NAMESPACE, text)
        assert line.encode() == case["log_line"]
        name = case["verifier_key"].split("+")[0]
        cosigned = cosign(bytes.fromhex(case["verifier_seed"]), name, case["time"], text)
        assert cosigned.encode() == case["cosignature_line"]


def test_bundles_and_their_faults() -> None:
    for case in cases("bundles"):
        entry = check_bundle(parse_policy(case["policy"]), bytes.fromhex(case["bundle"]))
        assert entry.encode().hex() == case["entry"]
    for case in cases("bundles", wrong=True):
        with pytest.raises(DirectoryLies) as caught:
            check_bundle(parse_policy(case["policy"]), bytes.fromhex(case["bundle"]))
        assert caught.value.fault.name == case["error"]


def test_messages() -> None:
    for case in cases("messages"):
        payload = bytes.fromhex(case["payload"])
        if "request" in case:
            assert encode_request(decode_request(payload)) == payload
        else:
            assert encode_reply(decode_reply(payload)) == payload


def test_policies() -> None:
    for case in cases("policies"):
        policy = parse_policy(case["policy"])
        assert (policy.namespace, policy.directory.hex()) == (case["namespace"], case["directory"])
        assert all(policy.satisfied(signed) for signed in case["enough"])
        assert not any(policy.satisfied(signed) for signed in case["too few"])
        assert policy.degraded is not None
        assert all(policy.degraded.satisfied(signed) for signed in case["enough when degraded"])
    for case in cases("policies", wrong=True):
        with pytest.raises(DecodeError):
            parse_policy(case["policy"])


def link_of(case: Case) -> HistoryLink:
    fields = Fields(bytes.fromhex(case["link"]), "a link")
    link = read_link(fields)
    fields.end()
    return link


def test_entries_after_operations() -> None:
    made = cases("chains")
    for case, following in zip(made, [*made[1:], None], strict=True):
        before = decode_entry(bytes.fromhex(case["before"]))
        after = link_of(case).follow(before, DIRECTORY)
        assert after.encode().hex() == case["after"], case["what"]
        assert following is None or following["before"] == case["after"]
    first, last = (
        decode_entry(bytes.fromhex(made[n][what])) for n, what in ((0, "before"), (-1, "after"))
    )
    check_succession(make_policy(HERE), first, last, tuple(link_of(case) for case in made))
    for case in cases("chains", wrong=True):
        before = decode_entry(bytes.fromhex(case["before"]))
        with pytest.raises(OperationRefused) as refused:
            link_of(case).follow(before, DIRECTORY)
        assert refused.value.refusal.name == case["error"], case["what"]


def test_look_ups_against_time_and_what_was_seen() -> None:
    for case in (*cases("lookups"), *cases("lookups", wrong=True)):
        reply = decode_reply(bytes.fromhex(case["answer"]))
        assert isinstance(reply, LookedUp)
        policy, state = parse_policy(case["policy"]), decode_state(bytes.fromhex(case["state"]))
        try:
            after, found = check_lookup(
                policy, state, reply.evidence, reply.links, case["name"], None, case["now"]
            )
        except DirectoryLies as error:
            assert error.fault.name == case["error"], case["what"]
        except NameExpired:
            assert case["error"] == "NameExpired", case["what"]
        else:
            assert "error" not in case, case["what"]
            if "after" in case:
                assert after.encode().hex() == case["after"], case["what"]
            if case.get("absent"):
                assert found == Absent()
            else:
                assert isinstance(found, Found)
                assert found.entry.encode().hex() == case["entry"]


def test_there_are_no_other_files() -> None:
    assert {path.name for path in VECTORS.glob("names-*.json")} == set(FILES)
