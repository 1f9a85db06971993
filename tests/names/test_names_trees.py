"""The directory's map and log against the naive model, and RFC 6962's test vectors."""

from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cbfs_common.errors import DecodeError
from cbfs_common.names.trees import (
    EMPTY_MAP,
    MapProof,
    Terminal,
    decode_map_proof,
    extends,
    includes,
    leaf_hash,
)
from cbfs_names.state.map_nodes import Leaf, MapTree, prefix
from cbfs_names.state.round_log import RoundLog
from tests.support import names_naive as naive

RFC_LEAVES = [
    bytes.fromhex(leaf)
    for leaf in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
RFC_ROOTS = (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)
"""Of the tree over the first 1, 2, ... leaves: the vectors of certificate-transparency."""
RFC_PATH_0_OF_8 = (
    "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
    "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
    "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
)
RFC_CONSISTENCY_6_8 = (
    "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
    "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
    RFC_ROOTS[3],
)


class StoredLog:
    def __init__(self) -> None:
        self.hashes: dict[tuple[int, int], bytes] = {}
        self.leaves: list[bytes] = []

    def log(self) -> RoundLog:
        return RoundLog(len(self.leaves), lambda level, index: self.hashes[level, index])

    def append(self, leaf: bytes) -> bytes:
        root, made = self.log().append(leaf)
        self.hashes.update(made)
        self.leaves.append(leaf)
        return root


def test_log_gives_the_roots_and_proofs_of_the_rfc_vectors() -> None:
    stored = StoredLog()
    for data, root in zip(RFC_LEAVES, RFC_ROOTS, strict=True):
        assert stored.append(leaf_hash(data)).hex() == root
        assert stored.log().root().hex() == root
    assert tuple(each.hex() for each in stored.log().inclusion(0)) == RFC_PATH_0_OF_8
    assert tuple(each.hex() for each in stored.log().consistency(6)) == RFC_CONSISTENCY_6_8


def test_log_proofs_are_the_model_s_and_verify_for_all_small_sizes() -> None:
    stored, roots = StoredLog(), [b""]
    for number in range(40):
        root = stored.append(sha256(bytes([number])).digest())
        roots.append(root)
        size, log = number + 1, stored.log()
        assert root == naive.log_root(stored.leaves)
        for index in range(size):
            proof = log.inclusion(index)
            assert list(proof) == naive.log_path(index, stored.leaves)
            assert includes(index, size, stored.leaves[index], proof, root)
            assert not includes(index, size, sha256(b"x").digest(), proof, root)
            assert not includes(index, size, stored.leaves[index], (*proof, root), root)
            assert not proof or not includes(index, size, stored.leaves[index], proof[1:], root)
        for old in range(1, size):
            steps = log.consistency(old)
            assert list(steps) == naive.log_consistency(old, stored.leaves)
            assert extends(old, size, roots[old], root, steps)
            assert not extends(old, size, roots[old - 1] or root, root, steps)
            assert not extends(old, size, roots[old], roots[old], steps)
            assert not extends(old, size, roots[old], root, steps[:-1])
            assert not extends(old, size, roots[old], root, (*steps, root))
        assert extends(size, size, root, root, ())
        assert not extends(size, size, root, roots[number], ())
        assert not extends(size + 1, size, root, root, ())
        assert log.consistency(0) == log.consistency(size) == log.consistency(size + 5) == ()


class StoredMap:
    def __init__(self) -> None:
        self.records: dict[bytes, bytes] = {}
        self.leaves: dict[bytes, bytes] = {}

    def tree(self) -> MapTree:
        return MapTree(self.records.get, self._leaf)

    def _leaf(self, index: bytes, depth: int) -> Leaf:
        found = [
            leaf for leaf in self.leaves.items() if prefix(leaf[0], depth) == prefix(index, depth)
        ]
        assert len(found) == 1
        return found[0]

    def update(self, leaves: dict[bytes, bytes]) -> bytes:
        root, records = self.tree().update(leaves)
        self.records.update(records)
        self.leaves.update(leaves)
        assert self.tree().root() == root
        return root


indexes = st.one_of(
    st.binary(min_size=32, max_size=32),
    st.integers(0, 15).map(lambda n: bytes(31) + bytes([n])),
    st.integers(0, 15).map(lambda n: bytes([n << 4]) + bytes(31)),
)
"""Random ones, ones that share 252 bits, and ones that share few."""

values = st.binary(min_size=32, max_size=32)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.dictionaries(indexes, values, max_size=6), max_size=5), indexes)
def test_map_is_the_model_s_after_any_updates(
    batches: list[dict[bytes, bytes]], stranger: bytes
) -> None:
    stored = StoredMap()
    root = stored.tree().root()
    assert root == EMPTY_MAP
    for batch in batches:
        root = stored.update(batch)
        assert root == naive.subtree(stored.leaves, "")
    for index in {*stored.leaves, stranger}:
        value = stored.leaves.get(index)
        proof = stored.tree().prove(index)
        assert proof == naive.map_proof(stored.leaves, index)
        assert decode_map_proof(proof.encode()) == proof
        assert proof.proves(root, index, value)
        assert not proof.proves(root, index, sha256(b"another").digest())
        assert not proof.proves(sha256(root).digest(), index, value)
        assert value is None or not proof.proves(root, index, None)


def test_a_thousand_names_one_by_one_and_at_once_have_one_root() -> None:
    leaves = {sha256(b"%d" % n).digest(): sha256(b"value %d" % n).digest() for n in range(300)}
    single, together = StoredMap(), StoredMap()
    for index, value in leaves.items():
        root = single.update({index: value})
    assert together.update(leaves) == root
    assert together.records == single.records


LEFT, RIGHT = bytes(32), b"\x80" + bytes(31)
VALUE = sha256(b"value").digest()


def proof_bytes() -> bytes:
    stored = StoredMap()
    stored.update({LEFT: VALUE, RIGHT: VALUE, b"\x40" + bytes(31): VALUE})
    return stored.tree().prove(LEFT).encode()


def test_every_fault_of_a_proof_is_refused() -> None:
    good = proof_bytes()
    assert decode_map_proof(good).encode() == good
    depth, bitmap, siblings, terminal = good[:2], good[2:3], good[3:-1], good[-1:]
    assert depth == b"\x00\x02"
    faults = {
        "depth 0": b"\x00\x00" + good[2:],
        "depth 257": b"\x01\x01" + bytes(33) + terminal,
        "fewer bits than siblings": depth + b"\x40" + siblings + terminal,
        "more bits than siblings": depth + bitmap + siblings[:32] + terminal,
        "spare bits": depth + b"\xc1" + siblings + terminal,
        "a sibling of zeros": depth + bitmap + siblings[:32] + bytes(32) + terminal,
        "an only child": depth + b"\x80" + siblings[:32] + terminal,
        "bytes left over": good + b"\x00",
        "no terminal": good[:-1],
        "an unknown terminal": good[:-1] + b"\x03",
        "another leaf without its hashes": good[:-1] + b"\x02" + bytes(63),
    }
    for what, data in faults.items():
        with pytest.raises(DecodeError):
            decode_map_proof(data)
            pytest.fail(what)


def test_another_leaf_must_share_the_prefix_and_be_another() -> None:
    stored = StoredMap()
    root = stored.update({LEFT: VALUE, RIGHT: VALUE})
    asked = b"\x20" + bytes(31)
    proof = stored.tree().prove(asked)
    assert proof.terminal is Terminal.OTHER
    assert proof.proves(root, asked, None)
    foreign = MapProof(proof.siblings, Terminal.OTHER, RIGHT, VALUE)
    assert not foreign.proves(root, asked, None)
    present = MapProof(proof.siblings, Terminal.OTHER, LEFT, VALUE)
    assert not present.proves(root, LEFT, None)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_map_proof_or_an_error(data: bytes) -> None:
    try:
        proof = decode_map_proof(data)
    except DecodeError:
        return
    assert proof.encode() == data
