"""Peers of the next version of the protocol, in the test's own process beside those of today's:
they have one kind of body more, something behind the host in profiles, and one request more."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from cbfs.account.account import Account
from cbfs.engine.engine import Engine
from cbfs.engine.running import running
from cbfs.network.options import NetworkOptions
from cbfs_common.limits import SPOKEN_VERSION
from cbfs_common.messages import body
from cbfs_common.messages.body import Part
from cbfs_common.profile import Profile
from cbfs_common.wire.fields import Done, Request

NEXT = SPOKEN_VERSION + 1
KIND = 7
NEW = "a thing of the next version"
"""A file of this name is a message of the new kind at who is of the next version."""

LATER = b"\0what only the next version knows"

_is_next: ContextVar[bool] = ContextVar("is_next", default=False)


@contextmanager
def next_version() -> Iterator[None]:
    """What is done in the block, and by tasks that begin in it, is done by a program of the next
    version."""
    token = _is_next.set(True)
    try:
        yield
    finally:
        _is_next.reset(token)


@asynccontextmanager
async def running_next(account: Path) -> AsyncIterator[Engine]:
    """``running`` of the next version, without Tor."""
    token = _is_next.set(True)
    async with running(account, NetworkOptions(no_tor=True)) as engine:
        _is_next.reset(token)
        yield engine


class _Kinds(dict[int, Any]):
    def __contains__(self, kind: object) -> bool:
        return super().__contains__(kind) and (kind != KIND or _is_next.get())


def make_next(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """``next_version`` works until the end of the test; the accounts of these names are made so."""
    kind, profile = Part.kind, Account.profile
    assert isinstance(kind, property)
    assert isinstance(profile, property)

    def kind_of(part: Part) -> int:
        is_new = part.file_name == NEW and _is_next.get()
        return KIND if is_new else kind.__get__(part)

    def profile_of(account: Account) -> Profile:
        made: Profile = profile.__get__(account)
        return replace(made, version=NEXT, later=LATER) if account.name in names else made

    kinds = _Kinds(body._DECODERS) | {KIND: body._decode_part}
    monkeypatch.setattr(body, "_DECODERS", _Kinds(kinds))
    monkeypatch.setattr(Part, "kind", property(kind_of))
    monkeypatch.setattr(Account, "profile", property(profile_of))


class NewRequest(Request[Done]):
    """What servers of today do not know."""

    KIND: ClassVar[int] = 21
