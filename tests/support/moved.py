"""Accounts to move, and the two sides of a move without a network between them."""

from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from cbfs.account.account import SYSTEM_RANDOM, make_account, opened_store, put_account
from cbfs.account.passphrase import Guard
from cbfs.account.spool import Spool, make_key
from cbfs.commands.home.moving.messages import MoveMessage, decode_message
from cbfs.commands.home.moving.sides import MoveArrival, MoveDeparture, NewSide, OldSide
from cbfs.storage.store import Meta, Table, Writer
from cbfs_common.errors import CbfsError
from cbfs_common.primitives import KEY_SIZE
from cbfs_common.profile import Address
from cbfs_common.wire.transport import Frame
from tests.support.names_naive import make_policy


class Meeting:
    """One connection: what either side has said and the other has not heard."""

    def __init__(self, old: MoveDeparture, new: MoveArrival) -> None:
        self.old, self.new = OldSide(old), NewSide(new)
        self.up: deque[MoveMessage] = deque()
        self.down: deque[MoveMessage] = deque([self.old.start()])
        self.olds: Iterator[MoveMessage] = iter(())
        self.news: Iterator[MoveMessage] = iter(())

    def step_old(self) -> bool:
        """The old side says, or hears, one message; False when it has none."""
        message = next(self.olds, None)
        if message is not None:
            self.down.append(told(message))
            return True
        if not self.up:
            return False
        self.olds = self.old.hear(self.up.popleft())
        return True

    def step_new(self) -> bool:
        """The new side says, or hears, one message; False when it has none."""
        message = next(self.news, None)
        if message is not None:
            self.up.append(told(message))
            return True
        if not self.down:
            return False
        self.news = self.new.hear(self.down.popleft())
        return True

    def go_on(self) -> None:
        """Until neither has anything to say."""
        while self.step_old() or self.step_new():
            pass


def told(message: MoveMessage) -> MoveMessage:
    """A message as it comes through."""
    found = decode_message(Frame(message.KIND, message.payload()))
    assert found == message
    return found


def bare_account(place: Path, guard: Callable[[], Guard] = Guard) -> Path:
    """An account that no server knows, with something in its store, its spool and its other
    files."""
    address = Address(b"k" * KEY_SIZE, "127.0.0.1", 1)
    account = make_account("alice", address, make_policy(address).encode(), SYSTEM_RANDOM)

    def change(writer: Writer) -> None:
        put_account(writer, account)
        writer.put(Table.META, Meta.OWN, b"not looked into")
        for number in range(40):
            writer.put(Table.PEERS, b"%d" % number, b"value" * 200)

    with opened_store(place, SYSTEM_RANDOM, create=guard) as store:
        store.write(change)
    spool, key = Spool(place), make_key(SYSTEM_RANDOM)
    spool.prepare()
    spool.publish(key.public)
    for text in (b"first", b"second"):
        spool.add(text, SYSTEM_RANDOM)
    for name in FILES:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(name.encode())
    return place


FILES = ("tor/onion_auth/a.auth_private", "lines/x.line", "server/key", "server/store/data.mdb")
STAYS = ("log", "server/log", "server/lock", "tor/data/state", "server/store/lock.mdb")


def lives_here(place: Path) -> bool:
    """Whether the account there can be used, as far as its directory says."""
    try:
        with opened_store(place, SYSTEM_RANDOM):
            return True
    except CbfsError:
        return False
