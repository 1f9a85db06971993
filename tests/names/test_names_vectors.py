"""The vectors of tests/vectors/names-*.json: what the code makes of each, and that the script
still makes the same files."""

import json
from typing import Any

import pytest

from cbfs_common.errors import DecodeError
from cbfs_common.names.checks import DirectoryLies, check_bundle
from cbfs_common.names.entry import (
    changes_hash,
    decode_entry,
    entry_hash,
    name_index,
    operations_hash,
)
from cbfs_common.names.note import cosign, sign_checkpoint
from cbfs_common.names.operations import decode_operation
from cbfs_common.names.policy import parse_policy
from cbfs_common.names.trees import decode_map_proof, extends, includes
from cbfs_common.names.wire import decode_reply, decode_request, encode_reply, encode_request
from tests.support.names_naive import (
    DIRECTORY,
    NAMESPACE,
)
from tests.vectors.make_names_vectors import FILES, VECTORS, text_of


def cases(kind: str, *, wrong: bool = False) -> list[dict[str, Any]]:
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
