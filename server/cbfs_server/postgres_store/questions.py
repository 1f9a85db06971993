"""How each question is answered: by which statements, and what follows from their rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cbfs_common.names.config import Registration
from cbfs_common.wire.requests import AnyReply, Code, EnvelopeIds, PrekeyCount, Stored
from cbfs_server.limits import LIST_PAGE, Limits
from cbfs_server.postgres_store import blob_changes as blobs
from cbfs_server.postgres_store import statements as s
from cbfs_server.postgres_store.changes import time_of
from cbfs_server.postgres_store.statements import Call, Rows, call
from cbfs_server.store.operations import (
    DONE,
    REFUSED,
    AskAccount,
    AskBlob,
    AskPresent,
    AskPrice,
    CountPrekeysLeft,
    ListIds,
    Mail,
    NextMail,
    ReadChunk,
    ReadEnvelope,
)
from cbfs_server.store.pricing import level, price


@dataclass(frozen=True, slots=True)
class OneAnswer:
    """How a question is answered in one round trip: its statements, and what follows from their
    rows."""

    calls: Callable[[Any, Limits], Sequence[Call]]
    result: Callable[[Any, Sequence[Rows]], Any]


def _list_ids(asked: ListIds, _limits: Limits) -> Sequence[Call]:
    user, after = asked.user, asked.after
    if not after:
        return call(s.ACCOUNT, user), call(s.LIST_FIRST, user, LIST_PAGE + 1)
    return (
        call(s.ACCOUNT, user),
        call(s.LIST_BEHIND, user, after, LIST_PAGE + 1),
        call(s.SERIAL, user, after),
    )


def _listed(asked: ListIds, found: Sequence[Rows]) -> AnyReply:
    if not found[0]:
        return REFUSED[Code.NO_ACCOUNT]
    if asked.after and not found[2]:
        return REFUSED[Code.UNKNOWN_ENVELOPE]
    ids = tuple(s.bytes_of(id) for (id,) in found[1])
    return EnvelopeIds(ids[:LIST_PAGE], len(ids) > LIST_PAGE)


def _read_envelope(asked: ReadEnvelope, _limits: Limits) -> Sequence[Call]:
    return (call(s.READ_ENVELOPE, asked.user, asked.id),)


def _read(_asked: ReadEnvelope, found: Sequence[Rows]) -> AnyReply:
    if not found[0]:
        return REFUSED[Code.NO_ACCOUNT]
    envelope = found[0][0][0]
    return REFUSED[Code.UNKNOWN_ENVELOPE] if envelope is None else Stored(envelope)


def _next_mail(asked: NextMail, _limits: Limits) -> Sequence[Call]:
    return (call(s.NEXT_MAIL, asked.user, asked.after, asked.most),)


def _mail(_asked: NextMail, found: Sequence[Rows]) -> tuple[Mail, ...]:
    return tuple(
        Mail(s.int_of(serial), s.bytes_of(id), s.bytes_of(envelope))
        for serial, id, envelope in found[0]
    )


def _ask_present(asked: AskPresent, _limits: Limits) -> Sequence[Call]:
    return (call(s.PRESENT, asked.user, asked.ids),)


def _present(_asked: AskPresent, found: Sequence[Rows]) -> frozenset[bytes]:
    return frozenset(s.bytes_of(id) for (id,) in found[0])


def _count_prekeys(asked: CountPrekeysLeft, _limits: Limits) -> Sequence[Call]:
    return (call(s.COUNT_PREKEYS, asked.user, time_of(asked.now)),)


def _counted(_asked: CountPrekeysLeft, found: Sequence[Rows]) -> AnyReply:
    if not found[0]:
        return REFUSED[Code.NO_ACCOUNT]
    one_time, last = found[0][0]
    return PrekeyCount(s.int_of(one_time), int(last, 16) if last else 0)


def _ask_account(asked: AskAccount, _limits: Limits) -> Sequence[Call]:
    return (call(s.ACCOUNT, asked.user),)


def _account(_asked: AskAccount, found: Sequence[Rows]) -> AnyReply:
    return DONE if found[0] else REFUSED[Code.NO_ACCOUNT]


def _ask_price(_asked: AskPrice, limits: Limits) -> Sequence[Call]:
    return (call(s.SERVER_FOR, limits.accounts),)


def _price(asked: AskPrice, found: Sequence[Rows]) -> int:
    if asked.rule.registration is Registration.INVITE:
        return 0
    ((left, filled, seconds),) = found[0]
    accounts = max(0, s.int_of(left))
    return price(
        level(s.float_of(filled), max(0.0, s.float_of(seconds)), accounts),
        accounts,
        asked.rule.work,
    )


ANSWERS: Final[dict[type[Any], OneAnswer]] = {
    ReadEnvelope: OneAnswer(_read_envelope, _read),
    ListIds: OneAnswer(_list_ids, _listed),
    NextMail: OneAnswer(_next_mail, _mail),
    CountPrekeysLeft: OneAnswer(_count_prekeys, _counted),
    AskAccount: OneAnswer(_ask_account, _account),
    AskPresent: OneAnswer(_ask_present, _present),
    AskPrice: OneAnswer(_ask_price, _price),
    AskBlob: OneAnswer(blobs.ask_blob, blobs.blob_found),
    ReadChunk: OneAnswer(blobs.read_chunk, blobs.chunk_found),
}
