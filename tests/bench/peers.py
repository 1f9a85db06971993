"""The peers of the ratchet, made equal in use: what one side seals the other opens.

DoubleRatchet (Python, the recommended primitives) and vodozemac (Rust, Olm). Both lack what a
cbfs envelope has: a sealed header, one size, and a KEM.
"""

from collections.abc import Coroutine
from typing import Any, Protocol

from doubleratchet import DoubleRatchet, EncryptedMessage
from doubleratchet.recommended import (
    HashFunction,
    aead_aes_hmac,
    diffie_hellman_ratchet_curve25519,
    kdf_hkdf,
)
from vodozemac import Account, Session

from cbfs_common.primitives import Random, dh_public


class Pair(Protocol):
    """Two parties, 0 and 1, who share a session."""

    def say(self, sender: int, body: bytes) -> bytes:
        """Seal at one side, open at the other; gives what was opened."""
        ...


class _RootKdf(kdf_hkdf.KDF):
    @staticmethod
    def _get_hash_function() -> HashFunction:
        return HashFunction.SHA_256

    @staticmethod
    def _get_info() -> bytes:
        return b"bench root"


class _ChainKdf(kdf_hkdf.KDF):
    @staticmethod
    def _get_hash_function() -> HashFunction:
        return HashFunction.SHA_256

    @staticmethod
    def _get_info() -> bytes:
        return b"bench chain"


class _Aead(aead_aes_hmac.AEAD):
    @staticmethod
    def _get_hash_function() -> HashFunction:
        return HashFunction.SHA_256

    @staticmethod
    def _get_info() -> bytes:
        return b"bench message"


class _Ratchet(DoubleRatchet):
    @staticmethod
    def _build_associated_data(associated_data: bytes, header: Any) -> bytes:
        numbers = header.sending_chain_length.to_bytes(4, "big")
        return bytes(associated_data + header.ratchet_pub + numbers)


def _result(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run what never waits, without the cost of an event loop."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("DoubleRatchet waits for something")


class DoubleRatchetPair:
    """Made by a first message from 0 to 1."""

    def __init__(self, random: Random) -> None:
        configuration = {
            "diffie_hellman_ratchet_class": diffie_hellman_ratchet_curve25519.DiffieHellmanRatchet,
            "root_chain_kdf": _RootKdf,
            "message_chain_kdf": _ChainKdf,
            "message_chain_constant": b"\x01\x02",
            "dos_protection_threshold": 100,
            "max_num_skipped_message_keys": 1000,
            "aead": _Aead,
            "shared_secret": random.token(32),
            "associated_data": b"",
        }
        secret = random.token(32)
        first, message = _result(
            _Ratchet.encrypt_initial_message(
                **configuration, recipient_ratchet_pub=dh_public(secret), message=b"first"
            )
        )
        second, _ = _result(
            _Ratchet.decrypt_initial_message(
                **configuration, own_ratchet_priv=secret, message=message
            )
        )
        self._sides = (first, second)

    def say(self, sender: int, body: bytes) -> bytes:
        message: EncryptedMessage = _result(self._sides[sender].encrypt_message(body, b""))
        opened: bytes = _result(self._sides[1 - sender].decrypt_message(message, b""))
        return opened


class VodozemacPair:
    """Made by a first message from 0 to 1, and an answer to it."""

    def __init__(self) -> None:
        alice, bob = Account(), Account()
        bob.generate_one_time_keys(1)
        (one_time_key,) = bob.one_time_keys.values()
        outbound: Session = alice.create_outbound_session(bob.curve25519_key, one_time_key)
        first = outbound.encrypt(b"first").to_pre_key()
        inbound, _ = bob.create_inbound_session(alice.curve25519_key, first)
        self._sides = (outbound, inbound)
        self.say(1, b"answer")

    def say(self, sender: int, body: bytes) -> bytes:
        opened: bytes = self._sides[1 - sender].decrypt(self._sides[sender].encrypt(body))
        return opened
