"""How each change is made, in a transaction: what it decides, and what it writes."""

import logging
import time
from collections.abc import Callable
from typing import Any

from cbfs_common.session.prekey import PREKEY_ID_SIZE, PrekeyKind
from cbfs_common.wire.fields import Done
from cbfs_common.wire.requests import AnyReply, Code, LastMark, PrekeyRecord
from cbfs_host.settings import Current
from cbfs_server.limits import ENVELOPE_COST, EXPIRY_BATCH, PREKEY_COST, PREKEYS_MAX, Limits
from cbfs_server.lmdb_store.arrivals import LatelyArrived
from cbfs_server.lmdb_store.blob_changes import BlobChanges
from cbfs_server.lmdb_store.expiry import forget_old
from cbfs_server.lmdb_store.mailboxes import MailboxWriter, expiry
from cbfs_server.lmdb_store.prekey_rate import PrekeyRateLimit
from cbfs_server.lmdb_store.records import AccountRecord, Visit
from cbfs_server.store.operations import (
    DONE,
    REFUSED,
    AddEnvelope,
    AddPrekeys,
    ChangeMark,
    EndAccount,
    ForgetInvites,
    ForgetOld,
    GivePrekey,
    MakeAccount,
    NoChange,
    NoteTime,
    NoteVisit,
    RemoveEnvelopes,
    Suspend,
)

_log = logging.getLogger(__name__)

MADE = Done()
"""The reply that an account was made."""

_NO_ACCOUNT = REFUSED[Code.NO_ACCOUNT]


class MailboxChanges:
    """Makes changes, and knows what of them is in no transaction: who has come lately, and how many
    prekeys were given."""

    def __init__(self, limits: Current[Limits], arrivals: LatelyArrived) -> None:
        self._limits = limits
        self._arrivals = arrivals
        self._rate = PrekeyRateLimit()
        self.makers: dict[type[Any], Callable[[Any, MailboxWriter], Any]] = {
            AddEnvelope: self._add_envelope,
            RemoveEnvelopes: _remove_envelopes,
            GivePrekey: self._give_prekey,
            AddPrekeys: _add_prekeys,
            MakeAccount: self._make_account,
            EndAccount: _end_account,
            ChangeMark: _change_mark,
            NoteVisit: _note_visit,
            Suspend: _suspend,
            NoteTime: _note_time,
            ForgetOld: forget_old,
            ForgetInvites: _forget_invites,
            **BlobChanges(limits).makers,
            NoChange: lambda _asked, _writer: None,
        }
        """How each is made."""

    def _add_envelope(self, asked: AddEnvelope, writer: MailboxWriter) -> AnyReply:
        account = writer.account(asked.user)
        if account is None:
            return REFUSED[Code.UNKNOWN_USER]
        if writer.serial(asked.user, asked.id) is not None:
            return DONE
        if account.stored >= self._limits.now.mailbox:
            return REFUSED[Code.MAILBOX_FULL]
        if not writer.room.fits((account.stored + 1) * ENVELOPE_COST):
            return REFUSED[Code.FULL if writer.room.full else Code.MAILBOX_FULL]
        writer.add_envelope(asked.user, account, asked.id, asked.envelope, asked.day)
        return DONE

    def _give_prekey(self, asked: GivePrekey, writer: MailboxWriter) -> AnyReply:
        user = asked.user
        if writer.account(user) is None:
            return REFUSED[Code.UNKNOWN_USER]
        kem = writer.kem(user)
        if kem is None:
            return REFUSED[Code.NO_PREKEY]
        fresh = _first_fresh(writer, user, asked.now)
        if fresh is not None and self._rate.allows(user, time.monotonic()):
            writer.delete_prekey(user, fresh)
            return PrekeyRecord(fresh, kem)
        for record in writer.prekeys(user, PrekeyKind.LAST_RESORT):
            if expiry(record) > asked.now:
                return PrekeyRecord(record, kem)
        return REFUSED[Code.NO_PREKEY]

    def _make_account(self, asked: MakeAccount, writer: MailboxWriter) -> AnyReply:
        if writer.account(asked.user) is not None:
            return DONE
        if asked.closed:
            return REFUSED[Code.TOO_MANY]
        left = self._limits.now.accounts - writer.accounts()
        if left <= 0:
            _log.warning("no account was made: there are %d", writer.accounts())
            return REFUSED[Code.TOO_MANY]
        if writer.room.tight:
            _log.warning("no account was made: there is little room")
            return REFUSED[Code.FULL]
        invite = asked.ticket.invite
        if invite is not None:
            if not invite or writer.was_used(invite):
                return REFUSED[Code.INVITE_NEEDED]
            writer.use_invite(invite, asked.day)
        elif code := self._arrivals.admits(asked, left):
            return REFUSED[code]
        writer.put_account(asked.user, AccountRecord(1, 0))
        writer.put_visit(asked.user, Visit(asked.day, False))
        return MADE


def _first_fresh(writer: MailboxWriter, user: bytes, now: float) -> bytes | None:
    """A one-time prekey that has not expired. The others stay: the clock may be wrong."""
    prekeys = writer.prekeys(user, PrekeyKind.ONE_TIME)
    return next((record for record in prekeys if expiry(record) > now), None)


def _add_prekeys(asked: AddPrekeys, writer: MailboxWriter) -> AnyReply:
    user = asked.user
    if writer.account(user) is None:
        return _NO_ACCOUNT
    one_time = list(writer.prekeys(user, PrekeyKind.ONE_TIME))
    last_resort = list(writer.prekeys(user, PrekeyKind.LAST_RESORT))
    new_last = [r for r in asked.records if r[PREKEY_ID_SIZE] == PrekeyKind.LAST_RESORT]
    gone = one_time if asked.replace else []
    new = {r[:PREKEY_ID_SIZE] for r in asked.records if r[PREKEY_ID_SIZE] == PrekeyKind.ONE_TIME}
    if _count_all(one_time, gone, new) > PREKEYS_MAX:  # those that seem to be over go first
        gone = [r for r in one_time if asked.replace or expiry(r) <= asked.now]
    count = _count_all(one_time, gone, new)
    if count > PREKEYS_MAX:
        return REFUSED[Code.TOO_MANY]
    if count > len(one_time) and not writer.room.fits(count * PREKEY_COST):
        return REFUSED[Code.FULL]
    if new_last or asked.replace:
        gone += last_resort
    for record in gone:
        writer.delete_prekey(user, record)
    for record in asked.records:
        writer.put_prekey(user, record)
    writer.put_kem(user, asked.kem)
    return DONE


def _count_all(known: list[bytes], gone: list[bytes], new: set[bytes]) -> int:
    """How many prekeys there are afterwards."""
    return len({r[:16] for r in known} - {r[:16] for r in gone} | new)


def _remove_envelopes(asked: RemoveEnvelopes, writer: MailboxWriter) -> AnyReply:
    if writer.account(asked.user) is None:
        return _NO_ACCOUNT
    for id in asked.ids:
        writer.delete_envelope(asked.user, id)
    return DONE


def _end_account(asked: EndAccount, writer: MailboxWriter) -> int | None:
    account = writer.account(asked.user)
    if account is None:
        return None
    writer.delete_account(asked.user)
    return account.stored


def _change_mark(asked: ChangeMark, writer: MailboxWriter) -> AnyReply:
    """Also when the disk is full: it takes the room of the last one."""
    if writer.account(asked.user) is None:
        return _NO_ACCOUNT
    found = writer.mark_of(asked.user) or b""
    if found == asked.seen:
        writer.put_mark_of(asked.user, asked.new)
    return LastMark(found)


def _note_visit(asked: NoteVisit, writer: MailboxWriter) -> None:
    if writer.account(asked.user) is not None:
        known = writer.visit(asked.user)
        fetched = asked.fetches or (known is not None and known.fetched)
        writer.put_visit(asked.user, Visit(asked.day, fetched))


def _suspend(asked: Suspend, writer: MailboxWriter) -> None:
    writer.suspend(asked.user, on=asked.on)


def _note_time(asked: NoteTime, writer: MailboxWriter) -> None:
    writer.put_mark(asked.mark)


def _forget_invites(asked: ForgetInvites, writer: MailboxWriter) -> bytes | None:
    return writer.forget_invites(asked.start, asked.before, EXPIRY_BATCH)
