"""The user calls people by other names: ``cbfs.messages.petnames`` has what that is in the
store."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import trio

from cbfs.contacts.user_names import typed_name
from cbfs.context import Context
from cbfs.messages import petnames
from cbfs.messages.model import Conversation, Message
from cbfs.problems import Backoff, NotAName, Taken
from cbfs.storage.store import StoreError
from cbfs_common.errors import DecodeError


class Renaming:
    """One for an account at work. ``moved`` is told of conversations with another folder, before
    and after; ``renamed`` of messages."""

    def __init__(
        self,
        context: Context,
        moved: Callable[[Conversation, Conversation], None],
        renamed: Callable[[Iterable[Message]], None],
    ) -> None:
        self._context = context
        self._moved = moved
        self._renamed = renamed
        self._wake = trio.Event()
        self._lock = trio.Lock()
        self._left: dict[str, int] = {}

    async def rename(self, name: str, petname: str) -> None:
        """Call somebody ``petname``; by their true name when it is that. Raises NotAName, or Taken
        when somebody else could be meant."""
        context, contacts = self._context, self._context.contacts
        async with self._lock, context.sessions.lock:
            contact = contacts.named(name)
            wanted = "" if petname in {name, f"@{name}"} else petname
            if wanted:
                self._check(wanted, name)
            if wanted == contact.petname:
                return
            moved = await contacts.decide(
                [replace(contact, petname=wanted)],
                lambda writer: petnames.rename(writer, name, contact.petname, wanted),
            )
            for old, new in moved:
                context.conversations[new.id] = new
                self._moved(old, new)
        if contacts.get(contact.petname) is not None:  # whose name was another's until now
            contacts.changed(contact.petname)
        self._wake.set()

    def _check(self, petname: str, name: str) -> None:
        try:
            if typed_name(petname) != petname:
                raise NotAName(petname)
        except DecodeError as error:
            raise NotAName(petname) from error
        context = self._context
        met = (c.participants for c in context.conversations.values())
        if (
            petname == context.account.name
            or context.contacts.is_used(petname, name)
            or any(petname in people for people in met)
        ):
            raise Taken(petname)

    def lines(self) -> tuple[str, ...]:
        """For ``status``: whose messages still have names of before."""
        return tuple(
            f"{left:,} messages are looked at for those of {self._context.contacts.label(name)}"
            for name, left in sorted(self._left.items())
            if left
        )

    def _count(self, names: Iterable[str]) -> dict[str, int]:
        """In a thread: it takes a moment where there are very many."""
        with self._context.store.read() as reader:
            return {name: petnames.left(reader, name) for name in names}

    def _looked(self, name: str, count: int) -> None:
        self._left[name] = max(0, self._left[name] - count)
        if not self._left[name] or count < petnames.BATCH:
            del self._left[name]
        self._context.problems.tell()

    async def run(self) -> None:
        """Give messages their names of now, a few at a time, until cancelled."""
        store, backoff = self._context.store, Backoff(self._context.random)
        while True:
            self._wake = trio.Event()
            with store.read() as reader:
                names = petnames.pending(reader)
            if fresh := [name for name in names if name not in self._left]:
                self._left |= await trio.to_thread.run_sync(self._count, fresh)
            for name in names:
                try:
                    looked, messages = await store.commit(
                        lambda writer, n=name: petnames.relabel(writer, n)  # type: ignore[misc]
                    )
                except StoreError as error:
                    self._context.problems.set(
                        "names of files", f"names of files were not changed: {error.in_full}"
                    )
                    await trio.sleep(backoff.next())
                    break
                self._context.problems.clear("names of files")
                self._looked(name, looked)
                if messages:
                    self._renamed(messages)
            if not names:
                await self._wake.wait()
