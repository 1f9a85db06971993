"""What stands in for a store and for ML-KEM in the model of tests/engine/test_lives_model: the
library draws its own randomness, and each walk is to be the same in every run."""

import random as numbers
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from hashlib import blake2b
from typing import TypeVar, cast
from unittest.mock import patch

from cbfs.storage.store import Table, Writer
from cbfs_common.primitives import KEM_CIPHERTEXT_SIZE, KemKey, Random
from tests.support.healing_world import ONE_TIME, SECRETS_MAX

T = TypeVar("T")


def _kem_public(seed: bytes) -> bytes:
    return bytes(1_152) + blake2b(seed, digest_size=32).digest()


def _kem_secret(public: bytes, drawn: bytes) -> bytes:
    return blake2b(public[-32:] + drawn, digest_size=32).digest()


def _kem_decapsulate(seed: bytes, ciphertext: bytes) -> bytes:
    return _kem_secret(_kem_public(seed), ciphertext[:32])


@contextmanager
def plain_kem() -> Iterator[None]:
    """The stand-in, and few prekeys."""
    with ExitStack() as stack:
        for target, value in {
            "cbfs_common.session.session.kem_decapsulate": _kem_decapsulate,
            "cbfs_common.session.prekey.kem_public": _kem_public,
            "cbfs.receiving.prekeys.PREKEYS_ONE_TIME": ONE_TIME,
            "cbfs.receiving.prekeys.REFILL": 1,
            "cbfs.receiving.prekeys.ROOM": SECRETS_MAX // 2,
            "cbfs.contacts.prekey_secrets.PREKEY_SECRETS_MAX": SECRETS_MAX,
            "cbfs_common.session.routes.ROUTE_WINDOW": 2,
            "cbfs_common.session.routes.ROUTE_WINDOW_NEXT": 2,
        }.items():
            stack.enter_context(patch(target, value))
        public = patch.object(KemKey, "public", lambda key: _kem_public(key.seed))
        opened = patch.object(KemKey, "decapsulate", lambda key, ct: _kem_decapsulate(key.seed, ct))
        stack.enter_context(public)
        stack.enter_context(opened)
        yield


def drawn_by(seed: int) -> Random:
    """Randomness of this seed."""
    token = numbers.Random(seed).randbytes

    def encapsulate(public: bytes) -> tuple[bytes, bytes]:
        drawn = token(32)
        return _kem_secret(public, drawn), drawn + bytes(KEM_CIPHERTEXT_SIZE - len(drawn))

    return Random(token, encapsulate)


class Memory:
    """What sessions need of a store."""

    def __init__(self, random: Random, records: dict[Table, dict[bytes, bytes]]) -> None:
        self._random = random
        self.records = records

    def copied(self) -> dict[Table, dict[bytes, bytes]]:
        return {table: dict(records) for table, records in self.records.items()}

    @contextmanager
    def read(self) -> Iterator["Memory"]:
        yield self

    def write(self, change: Callable[[Writer], T]) -> T:
        return change(cast(Writer, self))

    async def commit(self, change: Callable[[Writer], T]) -> T:
        return self.write(change)

    def get(self, table: Table, key: bytes) -> bytes | None:
        return self.records[table].get(bytes(key))

    def put(self, table: Table, key: bytes, value: bytes) -> None:
        self.records[table][bytes(key)] = value

    def delete(self, table: Table, key: bytes) -> bool:
        return self.records[table].pop(bytes(key), None) is not None

    def delete_prefix(self, table: Table, prefix: bytes) -> None:
        for key in self.keys(table, prefix):
            self.delete(table, key)

    def keys(self, table: Table, prefix: bytes = b"") -> list[bytes]:
        return sorted(key for key in self.records[table] if key.startswith(bytes(prefix)))

    def items(self, table: Table, prefix: bytes = b"") -> list[tuple[bytes, bytes]]:
        return [(key, self.records[table][key]) for key in self.keys(table, prefix)]

    def key_part(self, *parts: bytes) -> bytes:
        return blake2b(b"|".join(parts), digest_size=16).digest()

    def random_number(self) -> int:
        return int.from_bytes(self._random.token(8), "big")
