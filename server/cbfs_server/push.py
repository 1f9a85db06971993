"""Pushing envelopes to subscribers: the stored ones first, then each as it arrives.

A subscriber gets its mailbox in order, at most PUSH_WINDOW ahead of what was deleted, and nothing
while its connection is still busy with what was sent before. Envelopes are read from the store
only when they can be sent, so a slow subscriber costs no memory.
"""

import logging
from typing import Protocol

from cbfs_common.limits import PUSH_WINDOW
from cbfs_common.wire.requests import Arrived, encode
from cbfs_common.wire.transport import PUSH
from cbfs_host.lmdb_environment import StoreError
from cbfs_host.logs import tell_fault
from cbfs_server.store import MailboxStore

_log = logging.getLogger(__name__)


class Client(Protocol):
    """A connection whose key is proved."""

    @property
    def key(self) -> bytes:
        """The client's key (32), the user id of its account."""

    @property
    def ready(self) -> bool:
        """All that was sent has gone to the network."""

    def send(self, id: int, payload: bytes) -> None:
        """Send a frame, or keep it until those before it have gone."""

    def close(self, reason: str, level: int = logging.INFO) -> None:
        """End the connection, for a reason that the log gets."""


class _Subscription:
    __slots__ = ("client", "outstanding", "position")

    def __init__(self, client: Client) -> None:
        self.client = client
        self.position = 0
        self.outstanding: set[bytes] = set()


class Pusher:
    """The subscriptions of all connections, and what is to be pushed to each."""

    def __init__(self, store: MailboxStore) -> None:
        self._store = store
        self._of_user: dict[bytes, dict[Client, _Subscription]] = {}

    def subscribe(self, client: Client) -> None:
        """Begin with the first stored envelope. A second time changes nothing."""
        of_user = self._of_user.setdefault(client.key, {})
        if client not in of_user:
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

    def arrived(self, user: bytes) -> None:
        """Push what is new in the mailbox of ``user``."""
        for subscription in tuple(self._of_user.get(user, {}).values()):
            self._advance(subscription)

    def deleted(self, user: bytes, ids: tuple[bytes, ...]) -> None:
        """Push more of the mailbox of ``user``, as these envelopes have left it."""
        for subscription in tuple(self._of_user.get(user, {}).values()):
            subscription.outstanding.difference_update(ids)
            self._advance(subscription)

    def ready(self, client: Client) -> None:
        """Go on with a client to whom all that was sent has gone."""
        subscription = self._of_user.get(client.key, {}).get(client)
        if subscription is not None:
            self._advance(subscription)

    def _advance(self, subscription: _Subscription) -> None:
        client, outstanding = subscription.client, subscription.outstanding
        if not client.ready or len(outstanding) >= PUSH_WINDOW:
            return
        try:
            self._send_new(subscription)
        except StoreError as error:
            _log.error("a subscriber is told nothing more: %s", error.in_full)
        except Exception as error:  # of one subscriber, who asks anew
            tell_fault("a push", error)
            client.close("a fault of the server", logging.ERROR)

    def _send_new(self, subscription: _Subscription) -> None:
        """Send as many envelopes as there is room for. Raises StoreError."""
        client, outstanding = subscription.client, subscription.outstanding
        with self._store.read() as reader:
            for entry in reader.order(client.key, subscription.position):
                try:
                    envelope = reader.envelope(client.key, entry.id)
                except StoreError as error:
                    _log.error("an envelope is left out: %s", error.in_full)
                    envelope = None
                if envelope is None:
                    continue
                subscription.position = entry.serial
                outstanding.add(entry.id)
                client.send(PUSH, encode(Arrived(entry.id, envelope)))
                if not client.ready or len(outstanding) >= PUSH_WINDOW:
                    return
