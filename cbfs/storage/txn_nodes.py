"""The nodes of the tree of keys in LMDB, under their names, and the store's state behind them."""

import struct
from functools import lru_cache
from typing import Any, NamedTuple

from cbfs.storage.records import DamagedRecord
from cbfs_common.primitives import KEY_SIZE, kdf

STATE_KEY = b"\0state"
"""Where the state is: behind all nodes, the last of which change with every commit as it does, and
before all records."""

SALT_SIZE = 16
STATE_SIZES = frozenset((16, 16 + SALT_SIZE))

_STATE = struct.Struct(">QQ")


class Moment(NamedTuple):
    """Tells one commit from all others, and which is later. Each either turns the root, and begins
    a generation, or gives out slots."""

    generation: int
    next_slot: int


class TreeState(NamedTuple):
    """The store's state: its moment, and the ``salt`` (16) that the root's key of the tree is
    derived with from that of the root file. There is none, and the two are the same, when the
    commit has turned it."""

    moment: Moment
    salt: bytes = b""

    def encode(self) -> bytes:
        """This state as a record."""
        return _STATE.pack(*self.moment) + self.salt

    def root(self, key: bytes) -> bytes:
        """The root's key (32) of the tree, where ``key`` (32) is in the root file."""
        return kdf(key, b"cbfs1 grown", self.salt, KEY_SIZE) if self.salt else key


@lru_cache(2)  # every reader asks for the newest
def decode_state(data: bytes) -> TreeState:
    """Undo ``TreeState.encode``, of data whose size is one of STATE_SIZES."""
    return TreeState(Moment(*_STATE.unpack_from(data)), data[_STATE.size :])


class TxnNodes:
    """The nodes of the tree of keys, as one transaction of LMDB's sees them."""

    def __init__(self, txn: Any) -> None:
        self._txn = txn

    def get_node(self, name: bytes) -> bytes | None:
        found: bytes | None = self._txn.get(name)
        return found

    def put_node(self, name: bytes, sealed: bytes) -> None:
        self._txn.put(name, sealed)

    def delete_node(self, name: bytes) -> None:
        self._txn.delete(name)

    def state(self) -> TreeState:
        """That of the store. Raises DamagedRecord."""
        data = self.get_node(STATE_KEY)
        if data is None:
            return TreeState(Moment(0, 0))
        if len(data) not in STATE_SIZES:
            raise DamagedRecord
        return decode_state(data)

    def put_state(self, state: TreeState) -> None:
        """Write it."""
        self.put_node(STATE_KEY, state.encode())
