"""What the user does with people: contacts and strangers, for ``cbfs.interface.People``, and what
they are called."""

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from cbfs.contacts.contact import Contact, Mark, Standing
from cbfs.contacts.fingerprint import Fingerprint
from cbfs.contacts.user_names import typed_name
from cbfs.context import Context, Events, supervised
from cbfs.engine.directories import EngineDirectories
from cbfs.engine.guarded_view import GuardedView
from cbfs.interface import MessageRequest
from cbfs.messages import petnames
from cbfs.messages.queues import progress
from cbfs.messages.queues.quarantine import of_later_version
from cbfs.problems import Backoff, NotAName, Taken
from cbfs.receiving import message_requests
from cbfs.receiving.message_requests import Admission
from cbfs.storage.store import Meta, Reader, StoreError, Table
from cbfs_common.errors import DecodeError

if TYPE_CHECKING:
    from cbfs.engine.by_line import ByLine


class EnginePeople:
    """The contacts and strangers of an account at work."""

    def __init__(
        self,
        context: Context,
        admission: Admission,
        events: Events,
        directories: EngineDirectories,
        view: GuardedView,
    ) -> None:
        """``view`` is told why a line that the user has pasted adds nobody."""
        self._context = context
        self._admission = admission
        self._directories = directories
        self._view = view
        self._pasted = trio.Event()
        self.renaming = Renaming(context, events)

    def contacts(self) -> tuple[Contact, ...]:
        """All contacts, by name."""
        return self._context.contacts.all()

    def contact(self, name: str) -> Contact | None:
        """One contact, None for somebody who is not known."""
        return self._context.contacts.get(name)

    def unread(self, reader: Reader) -> tuple[str, ...]:
        """Lines that say what is in quarantine/, and from whom where that is known."""
        later, sessions = of_later_version(reader)
        people = {self._context.sessions.peer_of(session) for session in sessions} - {""}
        known = (self.contact(name) for name in people)
        named = sorted(self.label(c.name) for c in known if c and not c.blocked)
        rest = reader.count(Table.QUARANTINE) - later
        return (*progress.later_lines(later, named), *progress.unread_lines(rest))

    def compare(self, name: str) -> Fingerprint:
        """What the user compares with a contact, of the keys that they are asked about."""
        contacts = self._context.contacts
        return contacts.compare(contacts.named(name))

    async def verify(self, name: str, text: str) -> bool:
        """The user has compared the fingerprint in ``text``. False, and nothing has changed, when
        it is not the contact's of now; on the disk on return."""
        return await self._context.contacts.verify(name, text)

    async def unverify(self, name: str) -> None:
        """The user takes back that they have compared a contact's fingerprint."""
        await self._context.contacts.unverify(name)

    async def accept(self, name: str) -> None:
        """The user says that a name's new owner is the person they mean."""
        await self._context.contacts.accept(name)

    async def mark(self, name: str, mark: Mark, *, on: bool) -> None:
        """The user blocks or mutes a contact, or undoes that; on the disk on return."""
        await self._admission.mark(name, mark, on=on)

    def request(self, name: str) -> MessageRequest | None:
        """What a stranger asks; None for a contact, and when no request of theirs waits."""
        contact = self._context.contacts.get(name)
        if contact is None or contact.standing is Standing.KNOWN:
            return None
        with self._context.store.read() as reader:
            return message_requests.request(reader, self._context.contacts.directories, name)

    def label(self, name: str) -> str:
        """What somebody is shown as: the petname that the user gave them, else their name."""
        return self._context.contacts.label(name)

    def shown(self, name: str) -> str:
        """A true name as people see it, with the namespace of another name directory."""
        return self._context.contacts.shown(name)

    def called(self, text: str) -> str:
        """The true name of whom the user means. Raises DecodeError for what is no name."""
        return self._context.contacts.called(text)

    async def rename(self, name: str, petname: str) -> None:
        """The user calls a contact so; on the disk on return. Raises NotAName or Taken."""
        await self.renaming.rename(name, petname)

    async def admit(self, name: str) -> None:
        """The user accepts this stranger: what of them has waited is shown; on the disk on
        return."""
        await self._admission.admit([name])

    async def decline(self, name: str) -> None:
        """The user declines a stranger's request: what has waited is forgotten, and they are not
        heard for a while; on the disk on return."""
        await self._admission.decline(name)

    def waiting(self) -> tuple[str, ...]:
        """The labels of strangers whose requests wait."""
        names = [c.name for c in self.contacts() if c.standing is not Standing.KNOWN]
        with self._context.store.read() as reader:
            return tuple(self.label(name) for name in names if message_requests.waits(reader, name))

    async def await_invited(self) -> None:
        """Let those whom the user has invited by lines be contacts when they come; until
        cancelled."""
        # read in only here: most mounts wait for nobody
        from cbfs.engine.awaiting import Awaiting  # noqa: PLC0415

        await supervised(self._context, Awaiting(self._context, self._by_line()).run)

    async def add(self, line: str) -> None:
        """The user has pasted a line that somebody has given them: ``use_lines`` makes that a
        contact; on the disk on return. Raises Refused."""
        from cbfs.engine.pasting import paste_line  # noqa: PLC0415 - as above

        await paste_line(self._context, line)
        self._pasted.set()

    async def use_lines(self) -> None:
        """Use the lines that the user has pasted, until cancelled."""
        with self._context.store.read() as reader:
            there = next(reader.keys(Table.META, Meta.PASTED), None) is not None
        if not there:
            await self._next_line()
        from cbfs.engine.pasting import Pasting  # noqa: PLC0415 - as above

        await Pasting(self._context, self._by_line(), self._view.line_refused).run(self._next_line)

    async def _next_line(self) -> None:
        await self._pasted.wait()
        self._pasted = trio.Event()

    def _by_line(self) -> "ByLine":
        from cbfs.engine.by_line import ByLine  # noqa: PLC0415 - as above

        return ByLine(self._context, self._admission, self._directories)


class Renaming:
    """The user calls people by other names (``cbfs.messages.petnames`` has what that is in the
    store): their conversations' folders are renamed at once, their messages little by little.
    ``events`` hears of both."""

    def __init__(self, context: Context, events: Events) -> None:
        self._context = context
        self._events = events
        self._wake = trio.Event()
        self._lock = trio.Lock()
        self._left: dict[str, int] = {}

    async def rename(self, name: str, petname: str) -> None:
        """Call somebody ``petname``; by their true name when it is that. Raises NotAName, or Taken
        when somebody else could be meant."""
        context, contacts = self._context, self._context.contacts
        async with self._lock, context.sessions.lock:
            contact = contacts.named(name)
            wanted = "" if petname in {contacts.shown(name), f"@{name}"} else petname
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
                self._events.conversation_moved(old, new)
        if contacts.get(contact.petname) is not None:  # whose name was another's until now
            contacts.changed(contact.petname)
        self._wake.set()

    def wake(self) -> None:
        """Messages are to get other names, as the store says."""
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
                    self._events.messages_renamed(messages)
            if not names:
                await self._wake.wait()
