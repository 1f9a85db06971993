"""Forgetting what is old: envelopes that nobody fetches, and accounts that are over, as their
owners have not been there for long, or have never fetched anything."""

import logging

from cbfs_host.complaints import StoreError
from cbfs_server.limits import ENDING_COST, EXPIRY_BATCH, NEWCOMER_DAYS
from cbfs_server.lmdb_store.mailboxes import MailboxWriter
from cbfs_server.lmdb_store.records import StoredEnvelope, Visit
from cbfs_server.store.operations import Expired, ForgetOld, Swept, min_day

_log = logging.getLogger(__name__)


def forget_old(asked: ForgetOld, writer: MailboxWriter) -> Swept:
    """A batch of accounts. Its figures are counted anew when the change is made a second time."""
    budget, counted = EXPIRY_BATCH, Expired()
    users = writer.users(asked.start, EXPIRY_BATCH)
    for user in users:
        try:
            if _is_over(writer, user, asked.today, asked.inactive):
                budget -= _end(writer, user, budget, counted)
            else:
                before = asked.today - asked.retention
                budget -= _forget_envelopes(writer, user, before, budget, counted)
        except StoreError as error:
            _log.error("old envelopes of one account stay: %s", error.in_full)
        if budget <= 0:
            return Swept(user, counted)
    return Swept(users[-1] + b"\0" if len(users) == EXPIRY_BATCH else None, counted)


def _is_over(writer: MailboxWriter, user: bytes, today: int, inactive: int) -> bool:
    """Whether an account is to end. Of one that an older server has made, time begins now."""
    visit = writer.visit(user)
    if visit is None:
        writer.put_visit(user, Visit(today, True))
        return False
    days = inactive if visit.fetched else min(inactive, NEWCOMER_DAYS)
    return visit.day + days < today


def _end(writer: MailboxWriter, user: bytes, most: int, counted: Expired) -> int:
    """End an account, or as much of it as ``most`` blobs and envelopes are: it is over until
    nothing is left of it, or its owner comes meanwhile. How much that cost."""
    blobs = writer.blobs.forget_some(user, most)
    left = most - blobs
    if not left:
        return blobs
    visit, went = writer.visit(user), writer.end_account(user, left)
    counted.envelopes += went
    counted.accounts += bool(went)
    if went < left:
        counted.ended.append(user)
        counted.unused += visit is None or not visit.fetched
    return blobs + went + ENDING_COST


def _forget_envelopes(
    writer: MailboxWriter, user: bytes, before: int, most: int, counted: Expired
) -> int:
    old, oldest = _old(writer, user, before, most)
    for entry in old:
        writer.delete_entry(user, entry.serial, entry.id)
    counted.envelopes += len(old)
    counted.accounts += bool(old)
    counted.oldest = min_day(counted.oldest, oldest)
    return len(old)


def _old(
    writer: MailboxWriter, user: bytes, before: int, most: int
) -> tuple[list[StoredEnvelope], int | None]:
    """Up to ``most`` envelopes that are to be forgotten, and the day of the oldest that is not.
    Reads all that deleting them takes."""
    writer.account(user)
    found = list[StoredEnvelope]()
    for entry in writer.order(user, 0):
        if entry.day >= before or len(found) == most:
            return found, entry.day
        found.append(entry)
    return found, None
