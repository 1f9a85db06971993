"""One rule for Ed25519, at all edges where libraries differ."""

import json
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import example, given
from hypothesis import strategies as st
from nacl import bindings, exceptions

from cbfs_common.errors import CryptoError
from cbfs_common.primitives import sign, sign_public, verify
from tests.vectors.make_ed25519_vectors import FILE, make

VECTORS: dict[str, Any] = json.loads(FILE.read_text())
CASES: list[dict[str, Any]] = VECTORS["cases"]


def is_taken(public: bytes, message: bytes, signature: bytes) -> bool:
    try:
        verify(public, message, signature)
    except CryptoError:
        return False
    return True


def openssl_takes(public: bytes, message: bytes, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def sodium_takes(public: bytes, message: bytes, signature: bytes) -> bool:
    try:
        bindings.crypto_sign_open(signature + message, public)
    except exceptions.CryptoError:
        return False
    return True


def parts(case: dict[str, Any]) -> tuple[bytes, bytes, bytes]:
    public, message, signature = (
        bytes.fromhex(case[name]) for name in ("public", "message", "signature")
    )
    return public, message, signature


def test_the_vectors_are_those_of_the_script() -> None:
    assert make() == VECTORS


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['why']} ({case['equations']})")
def test_vectors(case: dict[str, Any]) -> None:
    assert set(case) == {"why", "public", "message", "signature", "equations", "valid"}
    assert is_taken(*parts(case)) == case["valid"]


def test_the_edges_are_those_where_libraries_differ() -> None:
    """Without the rule two verifiers that use other libraries would part ways."""
    differ = [c for c in CASES if openssl_takes(*parts(c)) != sodium_takes(*parts(c))]
    too_much = [c for c in CASES if sodium_takes(*parts(c)) and not c["valid"]]
    by_cofactor = [c for c in CASES if c["equations"] == "with a cofactor"]
    assert min(map(len, (differ, too_much, by_cofactor))) >= 3
    assert [c["why"] for c in CASES if c["valid"]] == ["what an honest signer makes"]


@given(st.binary(max_size=64), st.binary(max_size=10), st.binary(max_size=128))
@example(bytes(32), b"", bytes(64))
@example(bytes(31), b"", bytes(64))
@example(bytes(32), b"", b"")
def test_any_bytes_are_refused(public: bytes, message: bytes, signature: bytes) -> None:
    assert not is_taken(public, message, signature)


def test_what_is_signed_is_taken() -> None:
    seed = bytes(range(32))
    verify(sign_public(seed), b"message", sign(seed, b"message"))
    assert not is_taken(sign_public(seed), b"another", sign(seed, b"message"))
