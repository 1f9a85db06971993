"""By what an account stays: its owner is there, or it is over some day."""

from collections.abc import Callable

from cbfs_common.wire.blobs import MakeBlob, PutChunk, RemoveBlob, StatBlob
from cbfs_common.wire.requests import (
    AnyRequest,
    CountPrekeys,
    CreateAccount,
    Delete,
    DeleteAccount,
    Fetch,
    List,
    Subscribe,
    SwapMark,
    UploadPrekeys,
)
from cbfs_host.calendar import DAY
from cbfs_server.push import Client
from cbfs_server.store.interface import MailboxStore
from cbfs_server.store.operations import NoteVisit

_FETCHING = frozenset((List, Fetch, Subscribe))
_BLOBS = frozenset((MakeBlob, PutChunk, StatBlob, RemoveBlob))
_OWNERS = _FETCHING | _BLOBS | {Delete, CountPrekeys, UploadPrekeys, SwapMark}
"""Requests of an account's owner about it, by which it stays."""


class Visits:
    """Notes on which day the owner of an account was there last, with the first request of each
    day that is about it: and so costs next to nothing."""

    def __init__(self, store: MailboxStore, lived: Callable[[], float]) -> None:
        self._store = store
        self._lived = lived
        self._day = 0
        self._noted: dict[bytes, bool] = {}  # today; whether as one that fetches

    def came(self, client: Client, request: AnyRequest) -> None:
        """A client has asked something, and it was done."""
        kind = type(request)
        if kind is CreateAccount or kind is DeleteAccount:
            self._noted.pop(client.key, None)
        if kind not in _OWNERS:
            return
        today = int(self._lived()) // DAY
        if today != self._day:
            self._day, self._noted = today, {}
        fetches = kind in _FETCHING
        noted = self._noted.get(client.key)
        if noted is None or fetches > noted:
            self._noted[client.key] = fetches
            visit = NoteVisit(client.key, today, fetches)
            self._store.submit(visit, lambda _: None, client)
