"""What the parts of the engine share: the open account and its clock, how it is made, and how their
tasks are kept going."""

import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import trio

from cbfs.account.account import SYSTEM_RANDOM, Account
from cbfs.account.settings import Configuration
from cbfs.contacts.contacts import Contacts
from cbfs.contacts.look_up import ContactLookUp
from cbfs.contacts.sessions import Sessions
from cbfs.messages.conversations import load_conversations
from cbfs.messages.model import Conversation, Message, Turnover
from cbfs.messages.queues.delivery_queue import begin_again
from cbfs.messages.queues.note_queue import Dues
from cbfs.names.directory import Directory
from cbfs.names.followed import FollowedDirectories
from cbfs.names.lookups import Lookups
from cbfs.names.own_time import OwnTime
from cbfs.network.dial import Dialer
from cbfs.network.pacing import PacedDialer
from cbfs.problems import MOST, Backoff, Problems, Retries
from cbfs.storage.faults import contained
from cbfs.storage.store import Meta, Store, Table
from cbfs_common.errors import CbfsError
from cbfs_common.names.policy import parse_policy
from cbfs_common.person import Directories
from cbfs_common.primitives import Random


@dataclass(frozen=True, slots=True)
class Context:
    """One account at work. ``clock`` gives milliseconds since 1970, UTC."""

    account: Account
    followed: FollowedDirectories
    store: Store
    configuration: Configuration
    sessions: Sessions
    contacts: Contacts
    look_up: ContactLookUp
    conversations: dict[bytes, Conversation]
    dialer: PacedDialer
    clock: Callable[[], int]
    random: Random
    problems: Problems
    retries: Retries
    time: OwnTime | None = None

    @property
    def may_delete(self) -> bool:
        """Whether the clock may be believed so far that what is too old by it is deleted."""
        return self.time is None or self.time.may_delete

    @property
    def clock_is_right(self) -> bool:
        """Whether the directory agrees with the clock."""
        return self.time is not None and self.time.is_right

    @property
    def pace(self) -> float:
        """Mean seconds between two turns to connect; 0: at once."""
        return self.configuration.pace

    @property
    def is_prompt(self) -> bool:
        """Whether receipts and repairs leave soon after what has brought them about."""
        return self.configuration.is_prompt


class Events(Protocol):
    """What the parts of the engine tell each other and the mount, each time when the change is on
    the disk. Must not block."""

    def conversation_started(self, conversation: Conversation) -> None:
        """A message has come into a conversation, be it new or not."""

    def conversations_changed(self, changes: Turnover) -> None:
        """Some go on in others, or were left by somebody."""

    def conversation_moved(self, old: Conversation, new: Conversation) -> None:
        """A conversation has another folder."""

    def message_arrived(self, message: Message) -> None:
        """A message of somebody else is whole, and in the history."""

    def message_changed(self, message: Message) -> None:
        """The states of a message's recipients have moved on."""

    def messages_renamed(self, messages: Iterable[Message]) -> None:
        """Messages have other names or dates, in the same folders."""

    def message_ended(self, message: Message, missed: tuple[str, ...]) -> None:
        """A message's lifetime is over, and it is deleted. To ``missed`` it was not delivered, and
        now never is."""

    def request_changed(self, name: str) -> None:
        """There is more or less of what a stranger has sent, for the user's decision."""

    def progressed(self) -> None:
        """How far blobs have come, or are at the server, is another than before."""

    def notes_due(self, dues: Dues) -> None:
        """Something more is to be told to these peers, from these times on."""

    def owed_again(self, recipient: str) -> None:
        """There is something to send to this recipient once more, who misses it."""


def milliseconds() -> int:
    """The real clock."""
    return time.time_ns() // 1_000_000


def make_directory(store: Store, account: Account, dialer: Dialer) -> Directory:
    """The account's name directory, whose checked head is kept in the store."""

    def load() -> bytes | None:
        with store.read() as reader:
            return reader.get(Table.META, Meta.DIRECTORY)

    async def keep(state: bytes) -> None:
        await store.commit(lambda writer: writer.put(Table.META, Meta.DIRECTORY, state))

    return Directory(
        Lookups(dialer, parse_policy(account.policy), load, keep, time.time, SYSTEM_RANDOM)
    )


def passing_directory(policy: str, dialer: Dialer) -> Directory:
    """A name directory for once, without an account that remembers its head."""

    async def keep(state: bytes) -> None:
        """Nowhere."""

    return Directory(
        Lookups(dialer, parse_policy(policy), lambda: None, keep, time.time, SYSTEM_RANDOM)
    )


def make_context(
    store: Store,
    account: Account,
    configuration: Configuration,
    directory: Directory,
    dialer: PacedDialer,
    problems: Problems,
) -> Context:
    """What the parts of the engine share, as the store has it."""
    with store.read() as reader:
        conversations = load_conversations(reader)
    directories = Directories(directory.lookups.policy.directory)
    followed = FollowedDirectories(store, directories, directory.lookups)
    contacts = Contacts(store, followed, account.party.identity, milliseconds, begin_again)
    return Context(
        account,
        followed,
        store,
        configuration,
        Sessions(store, account.party, SYSTEM_RANDOM, account.former_parties),
        contacts,
        ContactLookUp(contacts, followed),
        conversations,
        dialer,
        milliseconds,
        SYSTEM_RANDOM,
        problems,
        Retries(SYSTEM_RANDOM),
        OwnTime(store, directory.lookups, milliseconds),
    )


class TaskStarter(Protocol):
    """Where tasks can be begun: a nursery, or ``StoppableTasks``."""

    def start_soon(self, task: Callable[..., Awaitable[None]], /, *arguments: Any) -> None:
        """Begin it, some time after this returns."""


class StoppableTasks:
    """Tasks in a nursery that can be ended, all together and for good, while others go on in it."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._scopes: set[trio.CancelScope] = set()
        self._stopped = False

    def start_soon(self, task: Callable[..., Awaitable[None]], /, *arguments: Any) -> None:
        """Begin a task, as a nursery does; nothing is begun any more after ``stop``."""
        if not self._stopped:
            self._nursery.start_soon(self._run, task, arguments)

    def stop(self) -> None:
        """End them all. The task that calls this goes on until it waits for something."""
        self._stopped = True
        for scope in self._scopes:
            scope.cancel()

    async def _run(self, task: Callable[..., Awaitable[None]], arguments: tuple[Any, ...]) -> None:
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                if not self._stopped:
                    await task(*arguments)
            finally:
                self._scopes.discard(scope)


async def supervised(context: Context, task: Callable[[], Awaitable[None]]) -> None:
    """Run ``task`` until it ends or is cancelled; again, after a growing wait, when it raises an
    error of whatever class. ``status`` says so until the next mount.

    What one item of somebody else's can bring about, a task handles itself; this is for what
    nobody thought of. A task must be able to begin at any time: what it works on is in the
    store."""
    backoff = Backoff(context.random)
    while True:
        began = trio.current_time()
        try:
            with contained():
                await task()
            return
        except CbfsError as error:
            context.problems.set("task", f"a part of cbfs failed, and begins anew: {error.in_full}")
        if trio.current_time() - began > MOST:
            backoff.reset()
        await trio.sleep(backoff.next())
