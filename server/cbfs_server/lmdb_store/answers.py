"""How each question is answered, from one view of the store."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

from cbfs_common.names.config import Registration
from cbfs_common.session.prekey import PrekeyKind
from cbfs_common.wire.requests import AnyReply, Code, EnvelopeIds, PrekeyCount, Stored
from cbfs_host.complaints import StoreError
from cbfs_host.settings import Current
from cbfs_server.limits import LIST_PAGE, Limits
from cbfs_server.lmdb_store import blob_changes
from cbfs_server.lmdb_store.arrivals import LatelyArrived
from cbfs_server.lmdb_store.mailboxes import MailboxReader, expiry
from cbfs_server.store.operations import (
    DONE,
    REFUSED,
    AskAccount,
    AskPresent,
    AskPrice,
    CountPrekeysLeft,
    ListIds,
    Mail,
    NextMail,
    ReadEnvelope,
)

_log = logging.getLogger(__name__)

_NO_ACCOUNT = REFUSED[Code.NO_ACCOUNT]


class MailboxAnswers:
    """Answers questions, as far as a view of the store does not, from what is known of ``limits``
    and ``arrivals``."""

    def __init__(self, limits: Current[Limits], arrivals: LatelyArrived) -> None:
        self._limits = limits
        self._arrivals = arrivals
        self.answers: dict[type[Any], Callable[[Any, MailboxReader], Any]] = {
            ReadEnvelope: _read_envelope,
            ListIds: _list_ids,
            NextMail: _next_mail,
            CountPrekeysLeft: _count_prekeys,
            AskAccount: _ask_account,
            AskPresent: _ask_present,
            AskPrice: self._ask_price,
            **blob_changes.ANSWERS,
        }
        """How each is answered."""

    def _ask_price(self, asked: AskPrice, reader: MailboxReader) -> int:
        if asked.rule.registration is Registration.INVITE:
            return 0
        left = max(0, self._limits.now.accounts - reader.accounts())
        return self._arrivals.price(asked.rule, left)


def _read_envelope(asked: ReadEnvelope, reader: MailboxReader) -> AnyReply:
    if reader.account(asked.user) is None:
        return _NO_ACCOUNT
    envelope = reader.envelope(asked.user, asked.id)
    return REFUSED[Code.UNKNOWN_ENVELOPE] if envelope is None else Stored(envelope)


def _list_ids(asked: ListIds, reader: MailboxReader) -> AnyReply:
    if reader.account(asked.user) is None:
        return _NO_ACCOUNT
    serial = reader.serial(asked.user, asked.after) if asked.after else 0
    if serial is None:
        return REFUSED[Code.UNKNOWN_ENVELOPE]
    found = reader.ids(asked.user, serial, LIST_PAGE + 1)
    return EnvelopeIds(tuple(found[:LIST_PAGE]), len(found) > LIST_PAGE)


def _next_mail(asked: NextMail, reader: MailboxReader) -> Iterator[Mail]:
    """Read as it is used."""
    left = asked.most
    for entry in reader.order(asked.user, asked.after):
        try:
            envelope = reader.envelope(asked.user, entry.id)
        except StoreError as error:
            _log.error("an envelope is left out: %s", error.in_full)
            envelope = None
        if envelope is not None:
            yield Mail(entry.serial, entry.id, envelope)
            left -= 1
            if not left:
                return


def _count_prekeys(asked: CountPrekeysLeft, reader: MailboxReader) -> AnyReply:
    user, now = asked.user, asked.now
    if reader.account(user) is None:
        return _NO_ACCOUNT
    one_time = (expiry(record) > now for record in reader.prekeys(user, PrekeyKind.ONE_TIME))
    last = max(map(expiry, reader.prekeys(user, PrekeyKind.LAST_RESORT)), default=0)
    return PrekeyCount(sum(one_time), last if last > now else 0)


def _ask_account(asked: AskAccount, reader: MailboxReader) -> AnyReply:
    return _NO_ACCOUNT if reader.account(asked.user) is None else DONE


def _ask_present(asked: AskPresent, reader: MailboxReader) -> frozenset[bytes]:
    there = (id for id in asked.ids if reader.serial(asked.user, id) is not None)
    return frozenset(there)
