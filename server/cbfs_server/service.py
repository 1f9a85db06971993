"""What the server does for each request. No sockets here, and no lmdb.

Requests that only read are answered at once, from the memory-mapped store. Requests that change
something become one change of the store and are answered when that is on the disk.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Any

from cbfs_common.errors import DecodeError
from cbfs_common.limits import IDS_MAX
from cbfs_common.session.prekey import PrekeyKind
from cbfs_common.wire.requests import (
    AnyReply,
    AnyRequest,
    Code,
    CountPrekeys,
    CreateAccount,
    Delete,
    DeleteAccount,
    Deliver,
    Done,
    EnvelopeIds,
    ErrorReply,
    Fetch,
    GetLimits,
    List,
    PrekeyCount,
    PrekeyRecord,
    ServerLimits,
    Stored,
    Subscribe,
    TakePrekey,
    UploadPrekeys,
    decode_request,
    encode,
    envelope_id,
)
from cbfs_host.lmdb_environment import StoreError
from cbfs_server.limits import (
    ACCOUNTS_MAX,
    EXPIRY_BATCH,
    MAILBOX_MAX,
    PREKEY_BURST,
    PREKEY_PERIOD,
    PREKEYS_MAX,
    RETENTION_DAYS,
)
from cbfs_server.push import Client, Pusher
from cbfs_server.store import (
    AccountRecord,
    MailboxReader,
    MailboxStore,
    MailboxWriter,
    StoredEnvelope,
    expiry,
)

DAY = 86_400

_log = logging.getLogger(__name__)

_REPLIES: dict[Code, ErrorReply] = {code: ErrorReply(code) for code in Code}
_DONE = Done()

Change = Callable[[MailboxWriter], AnyReply]


class PrekeyRateLimit:
    """How fast one-time prekeys may leave one account: a token bucket for each, of which only those
    that are not full are kept. Takers are nobody, so the account counts."""

    def __init__(self) -> None:
        self._full_at: dict[bytes, float] = {}
        self._sweep_at = 1_024

    def allows(self, user: bytes, now: float) -> bool:
        """Count a take at ``now`` (seconds); False past the limit, and then nothing is counted."""
        full_at = max(self._full_at.get(user, now), now)
        if full_at - now > (PREKEY_BURST - 1) * PREKEY_PERIOD:
            return False
        self._full_at[user] = full_at + PREKEY_PERIOD
        if len(self._full_at) > self._sweep_at:
            self._full_at = {u: at for u, at in self._full_at.items() if at > now}
            self._sweep_at = 2 * len(self._full_at) + 1_024
        return True


class Service:
    """Answers requests of clients whose keys are proved. ``clock`` gives seconds since 1970, and
    ``lived`` those by which mail grows old, when that is another; ``mailbox`` envelopes are kept
    for each of at most ``accounts``."""

    def __init__(
        self,
        store: MailboxStore,
        pusher: Pusher,
        clock: Callable[[], float],
        mailbox: int = MAILBOX_MAX,
        accounts: int = ACCOUNTS_MAX,
        lived: Callable[[], float] | None = None,
    ) -> None:
        self.full = False
        """The disk is: nothing more is taken in."""
        self._store = store
        self._pusher = pusher
        self._clock = clock
        self._lived = lived or clock
        self._mailbox = mailbox
        self._accounts = accounts
        self._rate_limit = PrekeyRateLimit()
        self._changes: dict[type[AnyRequest], Callable[[bytes, Any], Change]] = {
            Deliver: self._deliver,
            Delete: _delete,
            TakePrekey: self._take,
            UploadPrekeys: self._upload,
            CreateAccount: self._create,
            DeleteAccount: _delete_account,
        }

    def handle(self, client: Client, id: int, payload: bytes) -> None:
        """Answer with ``client.send(id, reply)``, now or when the change is on the disk."""
        try:
            request = decode_request(payload)
        except DecodeError:
            client.send(id, encode(_REPLIES[Code.BAD_REQUEST]))
            return
        make_change = self._changes.get(type(request))
        if make_change is None:
            try:
                reply = self._read(client.key, request)
            except StoreError as error:
                _log.error("%s", error.in_full)
                reply = _REPLIES[Code.TROUBLE]
            client.send(id, encode(reply))
            if isinstance(request, Subscribe) and isinstance(reply, Done):
                self._pusher.subscribe(client)
            return

        def done(result: AnyReply | StoreError) -> None:
            reply = _REPLIES[Code.TROUBLE] if isinstance(result, StoreError) else result
            client.send(id, encode(reply))
            if not isinstance(reply, ErrorReply):
                self._tell(client.key, request)

        self._store.submit(make_change(client.key, request), done)

    def _tell(self, user: bytes, request: AnyRequest) -> None:
        """Tell subscribers, after the change is on the disk."""
        match request:
            case Deliver():
                self._pusher.arrived(request.user_id)
            case Delete():
                self._pusher.deleted(user, request.ids)
            case DeleteAccount():
                self._pusher.forget(user)

    def _read(self, user: bytes, request: AnyRequest) -> AnyReply:
        if isinstance(request, GetLimits):
            return ServerLimits(self._mailbox, RETENTION_DAYS * DAY, PREKEYS_MAX)
        with self._store.read() as reader:
            if reader.account(user) is None:
                return _REPLIES[Code.NO_ACCOUNT]
            match request:
                case CountPrekeys():
                    return self._count(reader, user)
                case List():
                    return _list(reader, user, request.after)
                case Fetch():
                    return _fetch(reader, user, request.id)
        return _DONE

    def _count(self, reader: MailboxReader, user: bytes) -> PrekeyCount:
        now = self._clock()
        one_time = (expiry(record) > now for record in reader.prekeys(user, PrekeyKind.ONE_TIME))
        last = max(map(expiry, reader.prekeys(user, PrekeyKind.LAST_RESORT)), default=0)
        return PrekeyCount(sum(one_time), last if last > now else 0)

    def _deliver(self, _user: bytes, request: Deliver) -> Change:
        id = envelope_id(request.envelope)
        day = int(self._lived()) // DAY

        def change(writer: MailboxWriter) -> AnyReply:
            account = writer.account(request.user_id)
            if account is None:
                return _REPLIES[Code.UNKNOWN_USER]
            if writer.serial(request.user_id, id) is not None:
                return _DONE
            if self.full:
                return _REPLIES[Code.TROUBLE]
            if account.stored >= self._mailbox:
                return _REPLIES[Code.MAILBOX_FULL]
            writer.add_envelope(request.user_id, account, id, request.envelope, day)
            return _DONE

        return change

    def _take(self, _user: bytes, request: TakePrekey) -> Change:
        now = self._clock()

        def change(writer: MailboxWriter) -> AnyReply:
            user = request.user_id
            if writer.account(user) is None:
                return _REPLIES[Code.UNKNOWN_USER]
            kem = writer.kem(user)
            if kem is None:
                return _REPLIES[Code.NO_PREKEY]
            fresh = _first_fresh(writer, user, now)
            if fresh is not None and self._rate_limit.allows(user, time.monotonic()):
                writer.delete_prekey(user, fresh)
                return PrekeyRecord(fresh, kem)
            for record in writer.prekeys(user, PrekeyKind.LAST_RESORT):
                if expiry(record) > now:
                    return PrekeyRecord(record, kem)
            return _REPLIES[Code.NO_PREKEY]

        return change

    def _upload(self, user: bytes, request: UploadPrekeys) -> Change:
        now = self._clock()

        def change(writer: MailboxWriter) -> AnyReply:
            if writer.account(user) is None:
                return _REPLIES[Code.NO_ACCOUNT]
            if self.full:
                return _REPLIES[Code.TROUBLE]
            one_time = list(writer.prekeys(user, PrekeyKind.ONE_TIME))
            last_resort = list(writer.prekeys(user, PrekeyKind.LAST_RESORT))
            new_last = [r for r in request.records if r[16] == PrekeyKind.LAST_RESORT]
            gone = one_time if request.replace else []
            new = {r[:16] for r in request.records if r[16] == PrekeyKind.ONE_TIME}
            if _count_all(one_time, gone, new) > PREKEYS_MAX:  # those that seem to be over go first
                gone = [r for r in one_time if request.replace or expiry(r) <= now]
            if _count_all(one_time, gone, new) > PREKEYS_MAX:
                return _REPLIES[Code.TOO_MANY]
            if new_last or request.replace:
                gone += last_resort
            for record in gone:
                writer.delete_prekey(user, record)
            for record in request.records:
                writer.put_prekey(user, record)
            writer.put_kem(user, request.kem)
            return _DONE

        return change

    def _create(self, user: bytes, _request: CreateAccount) -> Change:
        def change(writer: MailboxWriter) -> AnyReply:
            if writer.account(user) is not None:
                return _DONE
            if self.full or writer.accounts() >= self._accounts:
                if self._accounts and not self.full:  # the disk is told of elsewhere
                    _log.warning("no account was made: there are %d", self._accounts)
                return _REPLIES[Code.TOO_MANY]
            writer.put_account(user, AccountRecord(1, 0))
            return _DONE

        return change


def _first_fresh(writer: MailboxWriter, user: bytes, now: float) -> bytes | None:
    """A one-time prekey that has not expired. The others stay: the clock may be wrong."""
    prekeys = writer.prekeys(user, PrekeyKind.ONE_TIME)
    return next((record for record in prekeys if expiry(record) > now), None)


def _count_all(known: list[bytes], gone: list[bytes], new: set[bytes]) -> int:
    """How many prekeys there are afterwards."""
    return len({r[:16] for r in known} - {r[:16] for r in gone} | new)


def _list(reader: MailboxReader, user: bytes, after: bytes) -> AnyReply:
    serial = reader.serial(user, after) if after else 0
    if serial is None:
        return _REPLIES[Code.UNKNOWN_ENVELOPE]
    found = [entry.id for entry in islice(reader.order(user, serial), IDS_MAX + 1)]
    return EnvelopeIds(tuple(found[:IDS_MAX]), len(found) > IDS_MAX)


def _fetch(reader: MailboxReader, user: bytes, id: bytes) -> AnyReply:
    envelope = reader.envelope(user, id)
    return _REPLIES[Code.UNKNOWN_ENVELOPE] if envelope is None else Stored(envelope)


def _delete(user: bytes, request: Delete) -> Change:
    def change(writer: MailboxWriter) -> AnyReply:
        if writer.account(user) is None:
            return _REPLIES[Code.NO_ACCOUNT]
        for id in request.ids:
            writer.delete_envelope(user, id)
        return _DONE

    return change


def _delete_account(user: bytes, _request: DeleteAccount) -> Change:
    def change(writer: MailboxWriter) -> AnyReply:
        if writer.account(user) is None:
            return _REPLIES[Code.NO_ACCOUNT]
        writer.delete_account(user)
        return _DONE

    return change


@dataclass(slots=True)
class Expired:
    """What was forgotten: so many envelopes, of so many accounts."""

    envelopes: int = 0
    accounts: int = 0


def expire(
    writer: MailboxWriter, start: bytes, today: int, counted: Expired | None = None
) -> bytes | None:
    """Forget envelopes of more than RETENTION_DAYS, a batch of accounts from ``start`` on. Gives
    where to go on, None at the end. ``today`` is a day of what the server has lived; what goes is
    ``counted``."""
    budget = EXPIRY_BATCH
    users = writer.users(start, EXPIRY_BATCH)
    for user in users:
        try:
            old = _old(writer, user, today, budget)
        except StoreError as error:
            _log.error("old envelopes of one account stay: %s", error.in_full)
            continue
        for entry in old:
            writer.delete_entry(user, entry.serial, entry.id)
        budget -= len(old)
        if counted is not None and old:
            counted.envelopes += len(old)
            counted.accounts += 1
        if budget == 0:
            return user
    return users[-1] + b"\0" if len(users) == EXPIRY_BATCH else None


def _old(writer: MailboxWriter, user: bytes, today: int, most: int) -> list[StoredEnvelope]:
    """Up to ``most`` envelopes that are to be forgotten. Reads all that deleting them takes."""
    writer.account(user)
    mailbox = takewhile(lambda e: e.day + RETENTION_DAYS < today, writer.order(user, 0))
    return list(islice(mailbox, most))
