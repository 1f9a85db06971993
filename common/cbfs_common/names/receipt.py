"""A verifier's receipt for an operation. PROTOCOL.rst, Names: receipts."""

from hashlib import sha256

from cbfs_common.names.layout import short
from cbfs_common.primitives import sign, verify

RECEIPT_LABEL = b"cbfs1 names receipt"


def _body(namespace: str, operation: bytes, time: int) -> bytes:
    """label | newline | short(namespace) | SHA-256 of the operation 32 | time u64."""
    return (
        RECEIPT_LABEL
        + b"\n"
        + short(namespace.encode("ascii"))
        + sha256(operation).digest()
        + time.to_bytes(8, "big")
    )


def sign_receipt(seed: bytes, namespace: str, operation: bytes, time: int) -> bytes:
    """The receipt (64) by a verifier's seed (32) for an encoded operation at ``time`` (seconds)."""
    return sign(seed, _body(namespace, operation, time))


def verify_receipt(
    key: bytes, namespace: str, operation: bytes, time: int, signature: bytes
) -> None:
    """Raises CryptoError unless the verifier's key (32) signed the receipt."""
    verify(key, _body(namespace, operation, time), signature)
