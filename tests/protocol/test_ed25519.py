"""One rule for Ed25519, at all edges where libraries differ."""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import example, given
from hypothesis import strategies as st
from nacl import bindings, exceptions

from cbfs_common.errors import CryptoError
from cbfs_common.primitives import sign, sign_public, verify
from tests.support.vectors import vectors
from tests.vectors.make_ed25519 import equations

CASES = vectors("ed25519")["signature"]


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


def test_the_edges_are_those_where_libraries_differ() -> None:
    """Without the rule two verifiers that use other libraries would part ways."""
    differ = [c for c in CASES if openssl_takes(**c.given) != sodium_takes(**c.given)]
    too_much = [c for c in CASES if sodium_takes(**c.given) and c.error]
    by_cofactor = [c for c in CASES if equations(*c.given.values()) == "with a cofactor"]
    assert min(map(len, (differ, too_much, by_cofactor))) >= 3
    assert [c.name for c in CASES if not c.error] == ["what an honest signer makes (both)"]


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
