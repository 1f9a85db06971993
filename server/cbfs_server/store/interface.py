"""The face of a store of the message server: what service, push, housekeeping and operators know of
it.

All methods are called on the trio thread but where it says that they block. ``done`` is called
there as well, and once.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol, TypeVar

from cbfs_host.calendar import ClockMark
from cbfs_host.complaints import StoreError
from cbfs_host.settings import Current
from cbfs_server.limits import Limits
from cbfs_server.store.operations import Change, Question

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class StoreFigures:
    """``accounts`` and ``envelopes`` of a store, its ``blobs``, and how many ``chunks`` of blobs
    there are, those that are being erased included, where that is known; ``used``: bytes that are
    in use, ``free``: that may be taken in beside them, None where only others know."""

    accounts: int
    envelopes: int
    blobs: int
    chunks: int
    used: int
    free: int | None


@dataclass(frozen=True, slots=True)
class CheckedMailboxes:
    """How many ``records`` there are and how many of them are ``damaged``; and how many
    ``accounts``, and those among them that are ``incomplete``: something is missing in their
    mailboxes or blobs, or there is more than they say."""

    records: int
    damaged: int
    accounts: int
    incomplete: int

    @property
    def sound(self) -> bool:
        """Nothing is wrong."""
        return not self.damaged and not self.incomplete


class Subscribers(Protocol):
    """Who wants to know what others have changed: the clients that this process pushes to."""

    @property
    def users(self) -> Collection[bytes]:
        """The accounts that they have subscribed to."""

    def changed(self, user: bytes) -> None:
        """There may be something new in the mailbox of this user, or something gone. Only a hint:
        too often does no harm."""

    def forget(self, user: bytes) -> None:
        """The account is gone, or its user is suspended."""


class MailboxStore(Protocol):
    """A store. Errors are StoreError, of which nothing was done, as far as the store knows."""

    limits: Current[Limits]
    """What the operator has set."""

    @property
    def suspended(self) -> frozenset[bytes]:
        """Users whom the operator has suspended; asked at every request."""

    def submit(
        self,
        change: Change[R],
        done: Callable[[R | StoreError], object],
        owner: object = None,
        rank: int = 0,
    ) -> None:
        """Queue a change. ``done`` gets its result once that is durable, or a StoreError, which is
        in the log. What one
        ``owner`` changes of one user's is made in its order, and changes of several owners in
        turns, of which those of a lower ``rank`` are first."""

    def ask(
        self,
        question: Question[R],
        done: Callable[[R | StoreError], object],
        owner: object = None,
    ) -> None:
        """Look something up. ``done`` gets the result, or a StoreError, which is in the log: before
        this returns, where the store is in memory, or later. Whatever was answered before is
        seen."""

    async def commit(self, change: Change[R]) -> R:
        """Queue a change and wait until it is durable; its result. Raises StoreError."""

    def watch(self, subscribers: Subscribers) -> None:
        """Tell these what other processes have changed, from now on. What this process changes is
        told by who has changed it."""

    def noted(self) -> ClockMark | None:
        """The time that was noted last. Blocks: for the start. Raises StoreError."""

    def figures(self) -> StoreFigures:
        """What there is in it, now or as it was lately: costs some microseconds. Raises
        StoreError."""

    async def progress(self) -> None:
        """Wait until a change that changes nothing was made, if there is no reason to wait: the
        store is alive."""

    async def run(self) -> None:
        """Make the changes: until cancelled, and then until nothing waits. Raises StoreError when
        it cannot go on."""

    def close(self) -> None:
        """After ``run`` has ended."""

    def copy_into(self, descriptor: int) -> None:
        """Put the store, as it is now, into an empty file. Blocks, in a thread. One at a time.
        Raises StoreError; HostError, with what to do instead, where it is backed up otherwise."""

    def compact(self) -> tuple[int, int]:
        """Give back room that is free; bytes before and after. Blocks, in a thread of trio's. One
        at a time. Raises StoreError; HostError as ``copy_into``."""

    def check(self, rest: Callable[[], None]) -> CheckedMailboxes:
        """Look for damage in all that there is, calling ``rest`` again and again. Blocks, in a
        thread. Raises StoreError; HostError as ``copy_into``."""
