"""Message requests: what people send whom the user has neither written to nor accepted is kept
apart until they decide.

A body that was opened is a record ``key_part(sender) 16 | sequence u64`` of ``Table.REQUESTS``.
None of it is in a conversation, in a view or in the index, and nobody is told that it came. When
its sender is accepted, or somebody known begins the conversation that it belongs to, it is taken in
as if it came then, in the transaction that makes that true: a crash before leaves the request, one
after it the conversation.

What does not fit into the limits is dropped. To its sender it is a message without a receipt,
which is offered again later (PROTOCOL.rst, Nothing lost), and asked for once they are accepted.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import trio

from cbfs.account.settings import Strangers
from cbfs.contacts.contact import Contact, Mark, Standing
from cbfs.context import Context
from cbfs.interface import MessageRequest
from cbfs.messages import lifetimes
from cbfs.messages.conversations import get_conversation
from cbfs.messages.file_names import shown_file_name
from cbfs.messages.model import Conversation, Message
from cbfs.messages.queues import delivery_queue
from cbfs.problems import Backoff
from cbfs.receiving.compositions import followed
from cbfs.receiving.confirming import still_doubted
from cbfs.receiving.notes import Effects, Told
from cbfs.receiving.reassembly import Arrivals, Reception, store_part
from cbfs.storage.encoding import pack, u64, unpack
from cbfs.storage.records import KEY_PART_SIZE
from cbfs.storage.store import Reader, Series, StoreError, Table, Writer
from cbfs_common.messages.body import Part, decode_body, encode_part
from cbfs_common.messages.conversation import renumbered
from cbfs_common.person import Directories, Person

REQUESTS_MAX = 64
"""People whose requests wait at once; who else writes first is not heard."""

HELD_MAX = 64
"""Envelopes of one of them that are kept, of at most BODY_MAX bytes: 1 MiB, 64 MiB of all."""

DECLINED_FOR = 7 * 86_400_000
"""Milliseconds from when the user declined a request until its sender is heard again."""

STRANGERS_MAX = 1_024
"""People without a waiting request, of whom is remembered that the directory has confirmed them
and that the user has declined them; past them the one known longest is forgotten."""

TEXT_MAX = 2_000
"""Bytes of a first message that are shown."""


def is_free(
    reader: Reader,
    reception: Reception,
    known: Conversation | None,
    contact: Contact,
    part: Part,
) -> bool:
    """Whether a message of this person goes where it belongs: they are known, or it is in a
    conversation that is here already, or goes on from one. ``known``: the conversation, when it is
    in memory."""
    return contact.standing is Standing.KNOWN or is_here(
        reader, reception.directories, known, contact.name, part
    )


def is_here(
    reader: Reader, directories: Directories, known: Conversation | None, sender: str, part: Part
) -> bool:
    """Whether a conversation is here already, or one that is here goes on in it by this part."""
    here = known or get_conversation(reader, part.conversation)
    people = directories.texts(part.participants)
    if here is not None:
        return here.participants == people
    return bool(followed(reader, part.root, people, part.subject, sender))


def hold(writer: Writer, contact: Contact, body: bytes, now: int, session: bytes) -> bool:
    """Keep a body that has come on a session (its id) for the user's decision; False when it is
    dropped. ``now`` in milliseconds."""
    if contact.declined and contact.declined <= now < contact.declined + DECLINED_FOR:
        return False
    prefix = writer.key_part(contact.name.encode())
    held = sum(1 for _key in writer.keys(Table.REQUESTS, prefix))
    if held >= HELD_MAX or (not held and is_full(writer)):
        return False
    key = prefix + u64(writer.next_number(Series.REQUEST))
    writer.put(Table.REQUESTS, key, _encode(contact.name, now, body, session))
    part = decode_body(body)
    if isinstance(part, Part):
        lifetimes.schedule_request(writer, key, part.lifetime, now)
    return True


def end(writer: Writer, key: bytes) -> str | None:
    """The lifetime of this record is over: whose it was, None when it is not here any more."""
    data = writer.get(Table.REQUESTS, key)
    if data is None:
        return None
    writer.delete(Table.REQUESTS, key)
    return _decode(data)[0]


def _encode(name: str, received: int, body: bytes, session: bytes) -> bytes:
    """A record of ``Table.REQUESTS``: who sent a body, when it came, in milliseconds, and on which
    session."""
    return pack(name, received, body, session)


def _decode(data: bytes) -> tuple[str, int, bytes, bytes]:
    name, received, body, session = unpack(data, str, int, bytes, bytes)
    return name, received, body, session


def is_full(reader: Reader) -> bool:
    """Whether REQUESTS_MAX people wait."""
    return sum(1 for _ in _prefixes(reader)) >= REQUESTS_MAX


def _prefixes(reader: Reader) -> Iterator[bytes]:
    """One for each person."""
    key = next(reader.keys(Table.REQUESTS), None)
    while key is not None:
        prefix = key[:KEY_PART_SIZE]
        yield prefix
        key = next(reader.keys(Table.REQUESTS, start=prefix + b"\xff" * 8), None)


def bring_back(writer: Writer, now: int) -> set[str]:
    """None came later than ``now``: a wrong clock says so. Gives whose did."""
    late: set[str] = set()
    for key, data in list(writer.items(Table.REQUESTS)):
        name, received, body, session = _decode(data)
        if received > now:
            writer.put(Table.REQUESTS, key, _encode(name, now, body, session))
            late.add(name)
    return late


def waits(reader: Reader, name: str) -> bool:
    """Whether this person's request waits."""
    return next(reader.keys(Table.REQUESTS, reader.key_part(name.encode())), None) is not None


def move_requests(writer: Writer, before: bytes, now: bytes) -> None:
    """The people of one name directory (16) are those of another one from now on."""
    for key, data in list(writer.items(Table.REQUESTS)):
        name, received, body, session = _decode(data)
        part = decode_body(body)
        if isinstance(part, Part):
            people = tuple(sorted(_moved(who, before, now) for who in part.participants))
            place = renumbered(part.conversation, part.participants, people, part.subject)
            moved = replace(part, participants=people, conversation=place, parents=())
            record = _encode(name, received, encode_part(moved), session)
            writer.put(Table.REQUESTS, key, record)


def _moved(person: Person, before: bytes, now: bytes) -> Person:
    return person._replace(directory=now) if person.directory == before else person


def drop(writer: Writer, name: str) -> None:
    """Forget what this person has sent."""
    writer.delete_prefix(Table.REQUESTS, writer.key_part(name.encode()))


def release(writer: Writer, arrivals: Arrivals, reception: Reception, name: str) -> None:
    """Take in all that this person has sent, who was accepted."""
    _release(writer, arrivals, reception, writer.key_part(name.encode()), None)


def release_begun(writer: Writer, arrivals: Arrivals, reception: Reception) -> set[str]:
    """Take in what strangers have sent in conversations that began since, by those who are known.
    Gives who they are."""
    # not a difference of sets, which would look at all conversations that there are
    begun = {key for key in arrivals.conversations if key not in arrivals.known}
    if not begun or not writer.count(Table.REQUESTS):
        return set()
    return _release(writer, arrivals, reception, b"", begun)


def _release(
    writer: Writer,
    arrivals: Arrivals,
    reception: Reception,
    prefix: bytes,
    only: set[bytes] | None,
) -> set[str]:
    released: set[str] = set()
    for key, data in list(writer.items(Table.REQUESTS, prefix=prefix)):
        name, _received, body, session = _decode(data)
        part = decode_body(body)
        if not isinstance(part, Part) or (only is not None and part.conversation not in only):
            continue
        writer.delete(Table.REQUESTS, key)
        store_part(writer, arrivals, reception, name, part, still_doubted(writer, (session,)))
        released.add(name)
    return released


def request(reader: Reader, directories: Directories, name: str) -> MessageRequest | None:
    """What this person has sent, as a request; None when nothing of theirs waits."""
    found = list(reader.items(Table.REQUESTS, prefix=reader.key_part(name.encode())))
    parts = []
    for _key, data in found:
        _name, received, body, _session = _decode(data)
        part = decode_body(body)
        if isinstance(part, Part):
            parts.append((received, part))
    if not parts:
        return None
    since, first = parts[0]
    message = sorted(
        (part for _received, part in parts if part.salt == first.salt), key=lambda p: p.number
    )
    text = b"".join(p.chunk for number, p in enumerate(message) if p.number == number)
    return MessageRequest(
        name,
        since,
        directories.texts(first.participants),
        first.subject,
        shown_file_name(first.file_name) if first.file_name else "",
        first.size,
        b"" if first.blob else text[:TEXT_MAX],
        first.folder,
        len({(part.conversation, part.salt) for _received, part in parts}),
    )


def introduced(
    conversations: Iterable[Conversation], known: Callable[[str], Contact | None]
) -> list[Contact]:
    """The strangers that take part in conversations which somebody known has begun, as they are
    from then on. ``known`` gives a contact by name."""
    names = {name for conversation in conversations for name in conversation.participants}
    met = [contact for name in sorted(names) if (contact := known(name)) is not None]
    strange = [contact for contact in met if contact.standing is Standing.STRANGER]
    return [replace(contact, standing=Standing.LISTED) for contact in strange]


class Admission:
    """What the user decides about strangers, for an account at work. ``reception`` gives who
    receives and when, ``tell`` is told of what was let in.

    Whoever the user writes to is accepted by that. Each decision is one transaction, and made
    while nothing is taken in: what comes afterwards is under the new decision."""

    def __init__(
        self, context: Context, reception: Callable[[], Reception], tell: Callable[[Effects], None]
    ) -> None:
        self._context = context
        self._reception = reception
        self._tell = tell

    async def admit(self, names: Iterable[str]) -> None:
        """Accept these people, as far as they are strangers: what of them has waited is taken in,
        in the transaction that makes them known."""
        context, peers = self._context, self._context.contacts
        async with context.sessions.lock:
            known = (peers.named(name) for name in names)
            contacts = [
                replace(contact, standing=Standing.KNOWN, declined=0)
                for contact in known
                if contact.standing is not Standing.KNOWN
            ]
            if not contacts:
                return
            reception = self._reception()

            def change(writer: Writer) -> Effects:
                arrivals = Arrivals(context.conversations)
                for contact in contacts:
                    release(writer, arrivals, reception, contact.name)
                others = release_begun(writer, arrivals, reception)
                return Effects(arrivals, Told(arrivals.dues), others)

            effects = await peers.decide(contacts, change)
        self._tell(effects)
        await self.introduce(effects.arrivals.conversations.values())

    async def decline(self, name: str) -> None:
        """Forget what this stranger has sent, and what comes for a while."""
        await self._refuse(name, declined=self._context.clock())

    async def mark(self, name: str, mark: Mark, *, on: bool) -> None:
        """The user blocks or mutes somebody, or undoes that. Who is blocked is kept among the
        contacts, where it can be undone, and what waited for them is not sent any more."""
        peers, now = self._context.contacts, self._context.clock()
        if bool(peers.named(name).marked(mark)) == on:
            return
        if mark is Mark.BLOCKED and on:
            left = await self._refuse(name, blocked=now)
            self._tell(Effects(Arrivals({}), Told({}, left), set()))
            return
        async with self._context.sessions.lock:
            contact = peers.named(name).with_mark(mark, now if on else 0)
            await peers.decide([contact], lambda writer: None)

    async def _refuse(self, name: str, *, blocked: int = 0, declined: int = 0) -> list[Message]:
        """What a stranger has sent is forgotten. Gives the messages of one's own that thereby are
        not sent any more."""
        context, now = self._context, self._context.clock()
        async with context.sessions.lock:
            contact = context.contacts.named(name)
            if declined:
                contact = replace(contact, declined=declined)
            if blocked:
                known = contact.standing is Standing.KNOWN
                standing = Standing.KNOWN if known else Standing.LISTED
                contact = replace(contact, blocked=blocked, standing=standing)

            def change(writer: Writer) -> list[Message]:
                drop(writer, name)
                return delivery_queue.leave_out(writer, name, now) if blocked else []

            return await context.contacts.decide([contact], change)

    async def introduce(self, conversations: Iterable[Conversation]) -> None:
        """Somebody known has begun these: who takes part is a stranger no more, but still to be
        accepted where they write alone. A crash before leaves it to their next message."""
        peers = self._context.contacts
        if listed := introduced(conversations, peers.get):
            await peers.decide(listed, lambda writer: None)

    async def forget(self) -> None:
        """Keep no more than STRANGERS_MAX strangers, of whom nothing waits. One that is forgotten
        is met anew when something of theirs can be read again."""
        context = self._context
        idle = self._idle()
        gone = [contact.name for contact in idle[: max(0, len(idle) - STRANGERS_MAX)]]
        if gone:
            async with context.sessions.lock:
                await context.contacts.forget(
                    gone, lambda writer: context.sessions.forget(writer, gone)
                )
                context.sessions.forgotten(gone)

    def _idle(self) -> list[Contact]:
        found = [c for c in self._context.contacts.all() if c.standing is Standing.STRANGER]
        if len(found) <= STRANGERS_MAX:
            return []
        with self._context.store.read() as reader:
            idle = [contact for contact in found if not waits(reader, contact.name)]
        return sorted(idle, key=lambda contact: contact.since)

    async def follow_settings(self) -> None:
        """When the settings accept everybody, so are those who wait. Until cancelled."""
        configuration = self._context.configuration
        backoff = Backoff(self._context.random)
        while True:
            try:
                if configuration.current.strangers is Strangers.ACCEPT:
                    await self.admit(
                        contact.name
                        for contact in self._context.contacts.all()
                        if not contact.blocked and not contact.declined
                    )
            except StoreError as error:
                self._context.problems.set(
                    "admission", f"requests were not accepted: {error.in_full}"
                )
                await trio.sleep(backoff.next())
                continue
            self._context.problems.clear("admission")
            await configuration.wait_changed()
