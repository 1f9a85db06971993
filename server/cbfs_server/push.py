"""Pushing envelopes to subscribers: the stored ones first, then each as it arrives.

A subscriber gets its mailbox in order, at most PUSH_WINDOW ahead of what was deleted, and nothing
while its connection is still busy with what was sent before. Envelopes are asked of the store
only when they can be sent, so a slow subscriber costs no memory. One that has much to get gets it
in slices, between which others have their turn.

An account has only so many subscribers (``Limits``): with another, the connection that subscribed
first ends. When connections are wanted, those of the accounts with most subscribers end first.
"""

import logging
from collections import deque
from collections.abc import Collection, Iterable
from functools import partial
from typing import Protocol

import trio

from cbfs_common.limits import PUSH_WINDOW
from cbfs_common.wire.requests import Arrived, encode
from cbfs_common.wire.transport import PUSH
from cbfs_host.complaints import StoreError
from cbfs_host.logs import tell_fault
from cbfs_server.limits import PUSH_SLICE
from cbfs_server.store.interface import MailboxStore
from cbfs_server.store.operations import AskPresent, Mail, NextMail

_log = logging.getLogger(__name__)


class Client(Protocol):
    """A connection whose key is proved."""

    @property
    def key(self) -> bytes:
        """The client's key (32), the user id of its account."""

    @property
    def closed(self) -> bool:
        """The connection has ended."""

    @property
    def ready(self) -> bool:
        """All that was sent has gone to the network."""

    def send(self, id: int, payload: bytes) -> None:
        """Send a frame, or keep it until those before it have gone."""

    def close(self, reason: str, level: int = logging.INFO) -> None:
        """End the connection, for a reason that the log gets."""


class _Subscription:
    __slots__ = ("again", "asks", "client", "gone", "outstanding", "position", "waits")

    def __init__(self, client: Client) -> None:
        self.client = client
        self.position = 0
        self.outstanding: set[bytes] = set()
        self.waits = False  # for its next slice
        self.asks = False  # the store, which has not answered yet
        self.again = False  # to be advanced then
        self.gone: set[bytes] = set()  # deleted meanwhile


class Pusher:
    """The subscriptions of all connections, and what is to be pushed to each."""

    def __init__(self, store: MailboxStore) -> None:
        self._store = store
        store.watch(self)
        self._of_user: dict[bytes, dict[Client, _Subscription]] = {}
        self._line: deque[_Subscription] = deque()
        self._news = trio.Event()

    async def run(self) -> None:
        """Push the slices that wait, one after the other, until cancelled."""
        while True:
            while self._line:
                subscription = self._line.popleft()
                subscription.waits = False
                client = subscription.client
                if self._of_user.get(client.key, {}).get(client) is subscription:
                    self._advance(subscription)
                await trio.lowlevel.checkpoint()
            self._news = trio.Event()
            await self._news.wait()

    def subscribe(self, client: Client) -> None:
        """Begin with the first stored envelope. A second time changes nothing."""
        if client.closed:
            return
        of_user = self._of_user.setdefault(client.key, {})
        if client not in of_user:
            while len(of_user) >= self._store.limits.now.subscriptions:
                first = next(iter(of_user))
                del of_user[first]
                first.close("its account has subscribed too often")
            of_user = self._of_user.setdefault(client.key, of_user)
            of_user[client] = _Subscription(client)
            self._advance(of_user[client])

    def unsubscribe(self, client: Client) -> None:
        """Push nothing more to this connection."""
        of_user = self._of_user.get(client.key, {})
        of_user.pop(client, None)
        if not of_user:
            self._of_user.pop(client.key, None)

    def forget(self, user: bytes) -> None:
        """End the subscriptions of an account that is gone."""
        self._of_user.pop(user, None)

    def subscribed(self, client: Client) -> bool:
        """Whether this connection gets pushes."""
        return client in self._of_user.get(client.key, ())

    @property
    def users(self) -> Collection[bytes]:
        """Of whom there are any."""
        return self._of_user.keys()

    @property
    def subscriptions(self) -> int:
        """How many there are."""
        return sum(map(len, self._of_user.values()))

    def crowd(self, most: int) -> list[Client]:
        """Up to ``most`` subscribers, of the accounts that have most of them."""
        found: list[Client] = []
        for of_user in sorted(self._of_user.values(), key=len, reverse=True):
            found += of_user
            if len(found) >= most:
                break
        return found[:most]

    def arrived(self, user: bytes) -> None:
        """Push what is new in the mailbox of ``user``."""
        for subscription in tuple(self._of_user.get(user, {}).values()):
            self._advance(subscription)

    def deleted(self, user: bytes, ids: tuple[bytes, ...]) -> None:
        """Push more of the mailbox of ``user``, as these envelopes have left it."""
        for subscription in tuple(self._of_user.get(user, {}).values()):
            subscription.outstanding.difference_update(ids)
            if subscription.asks:
                subscription.gone.update(ids)
            self._advance(subscription)

    def changed(self, user: bytes) -> None:
        """Push what is new in the mailbox of ``user``, and look for what has left it, as another
        process may have changed it."""
        for subscription in tuple(self._of_user.get(user, {}).values()):
            if len(subscription.outstanding) >= PUSH_WINDOW:
                asked = AskPresent(user, tuple(subscription.outstanding))
                self._store.ask(asked, partial(self._present, subscription, asked.ids), None)
            else:
                self._advance(subscription)

    def _present(
        self,
        subscription: _Subscription,
        asked: tuple[bytes, ...],
        found: frozenset[bytes] | StoreError,
    ) -> None:
        if isinstance(found, StoreError):
            _log.error("a subscriber is told nothing more: %s", found.in_full)
            return
        subscription.outstanding.difference_update(set(asked) - found)
        self._advance(subscription)

    def ready(self, client: Client) -> None:
        """Go on with a client to whom all that was sent has gone."""
        subscription = self._of_user.get(client.key, {}).get(client)
        if subscription is not None:
            self._advance(subscription)

    def _advance(self, subscription: _Subscription) -> None:
        client = subscription.client
        if not client.ready or len(subscription.outstanding) >= PUSH_WINDOW:
            return
        if subscription.asks:
            subscription.again = True
            return
        subscription.asks = True
        asked = NextMail(client.key, subscription.position, PUSH_SLICE)
        try:
            self._store.ask(asked, partial(self._found, subscription), client)
        except Exception as error:
            self._fault(client, error)

    def _found(self, subscription: _Subscription, found: Iterable[Mail] | StoreError) -> None:
        """The store has answered, now or after some time."""
        client = subscription.client
        try:
            if isinstance(found, StoreError):
                raise found
            there = self._of_user.get(client.key, {}).get(client) is subscription
            if there and client.ready:
                self._send_new(subscription, found)
        except StoreError as error:
            _log.error("a subscriber is told nothing more: %s", error.in_full)
        except Exception as error:
            self._fault(client, error)
        subscription.asks = False
        if subscription.gone:
            subscription.gone.clear()
        if subscription.again:
            subscription.again = False
            self._wait(subscription)

    def _fault(self, client: Client, error: Exception) -> None:
        """Of one subscriber, who asks anew."""
        tell_fault("a push", error)
        client.close("a fault of the server", logging.ERROR)

    def _send_new(self, subscription: _Subscription, found: Iterable[Mail]) -> None:
        """Send as many envelopes as there is room for, a slice at most. Raises StoreError."""
        client, outstanding = subscription.client, subscription.outstanding
        sent = 0
        for mail in found:
            sent += 1
            subscription.position = mail.serial
            if mail.id in subscription.gone:
                continue
            outstanding.add(mail.id)
            client.send(PUSH, encode(Arrived(mail.id, mail.envelope)))
            if not client.ready or len(outstanding) >= PUSH_WINDOW:
                return
        if sent == PUSH_SLICE:
            self._wait(subscription)

    def _wait(self, subscription: _Subscription) -> None:
        if not subscription.waits:
            subscription.waits = True
            self._line.append(subscription)
            self._news.set()
