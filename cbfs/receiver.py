"""Receipt: from the home server's pushes to messages in the store.

Envelopes are taken in batches. One commit holds the ratchets' new states, the prekeys that were
used up and the messages that came out; only then are the envelopes deleted on the server. A
crash before the commit leaves everything as it was, a crash after it makes the server push
again what is then recognised as a duplicate.

An envelope from somebody new waits in ``Table.INBOX`` until the directory has confirmed the
sender's name; one that cannot be read is kept in ``Table.QUARANTINE``.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import trio

from cbfs.arrivals import Arrivals, store_part
from cbfs.book import u64
from cbfs.context import Backoff, Context
from cbfs.model import Contact, Conversation, Message, NotYet
from cbfs.peers import Unknown
from cbfs.sessions import Batch, Opened
from cbfs.store import Table, Writer
from cbfs_common.errors import CbfsError, CryptoError, DecodeError, LimitError
from cbfs_common.message import Part, decode_body
from cbfs_common.names_client import DirectoryLies, NameChanged, NameExpired, check_bundle
from cbfs_common.profile import decode_profile
from cbfs_common.session import Duplicate, Peer


@dataclass(slots=True)
class _Sorted:
    """What is to become of a batch of envelopes."""

    steps: Batch
    parts: list[tuple[str, Part]] = field(default_factory=list)
    strangers: list[bytes] = field(default_factory=list)
    unreadable: list[bytes] = field(default_factory=list)


class Receiver:
    """Opens and stores what arrives."""

    def __init__(
        self,
        context: Context,
        started: Callable[[Conversation], None],
        arrived: Callable[[Message], None],
    ) -> None:
        self._context = context
        self._started = started
        self._arrived = arrived
        self._strangers = trio.Event()
        self._directory_back = trio.Event()

    async def take(self, envelopes: list[bytes]) -> None:
        """Bring these into the store. On return the server may delete them."""
        await self._take(envelopes, None)

    async def _take(self, envelopes: list[bytes], waited: bytes | None) -> None:
        """``waited``: the inbox record of the one envelope that this is."""
        context = self._context
        now = context.clock()
        async with context.sessions.lock:
            sort = self._sort(envelopes, now)

            def change(writer: Writer) -> Arrivals:
                sort.steps.write(writer)
                if waited is not None and not sort.strangers:
                    writer.delete(Table.INBOX, waited)
                elif waited is None:
                    _keep(writer, Table.INBOX, sort.strangers)
                _keep(writer, Table.QUARANTINE, sort.unreadable)
                arrivals = Arrivals(dict(context.conversations))
                for sender, part in sort.parts:
                    store_part(writer, arrivals, context.account.name, sender, part, now)
                return arrivals

            arrivals = await context.store.commit(change)
            sort.steps.done()
        self._tell(arrivals)
        if sort.unreadable:
            context.problems.set(
                "quarantine", "envelopes arrived that cannot be read; they are kept"
            )
        if sort.strangers and waited is None:
            self._strangers.set()

    def _tell(self, arrivals: Arrivals) -> None:
        for conversation in arrivals.started:
            self._context.conversations[conversation.id] = conversation
            self._started(conversation)
        for message in arrivals.messages:
            self._arrived(message)
        if arrivals.refused:
            self._context.problems.set(
                "refused", "messages were refused: their senders are not in the conversation"
            )

    def _sort(self, envelopes: list[bytes], now: int) -> _Sorted:
        sort = _Sorted(self._context.sessions.batch())
        for envelope in envelopes:
            try:
                opened = sort.steps.open(envelope, now // 1000)
                part = decode_body(opened.body)
                sender = self._sender(opened, part)
            except Duplicate:
                continue
            except (CryptoError, LimitError, DecodeError):
                sort.unreadable.append(envelope)
                continue
            if sender is None:
                sort.strangers.append(envelope)
                continue
            sort.steps.accept(opened, sender)
            sort.parts.append((sender, part))
        return sort

    def _sender(self, opened: Opened, part: Part) -> str | None:
        """Who wrote it, None for somebody whom the directory has to confirm first. Raises
        CryptoError when the session's keys are not those of the name that is claimed."""
        if opened.peer:
            return opened.peer
        claimed = self._claimed(opened.session.peer, part)
        known = self._context.peers.get(claimed.name)
        if known is None or not _same(claimed, opened.session.peer, known):
            return None
        return claimed.name

    def _claimed(self, peer: Peer, part: Part) -> Contact:
        """Whom a first message claims to be from, as the directory's signed bundle says it."""
        entry = check_bundle(self._context.policy, part.bundle)
        profile = decode_profile(entry.profile)
        if profile.identity(entry.name) != peer.identity or profile.auth != peer.auth_public:
            raise CryptoError("the sender is not who the bundle says")
        return Contact(entry.name, profile, self._context.clock())

    async def meet_strangers(self) -> None:
        """Confirm the names of new senders with the directory, for as long as the mount lives."""
        backoff = Backoff(self._context.random)
        while True:
            try:
                left = await self._meet_all()
                self._context.problems.clear("strangers")
            except CbfsError as error:
                self._context.problems.set(
                    "strangers", f"somebody new has written, and cannot be confirmed: {error}"
                )
                left = True
            if left:
                await trio.sleep(backoff.next())
                continue
            backoff.reset()
            self._strangers = trio.Event()
            await self._strangers.wait()

    async def _meet_all(self) -> bool:
        """True when something is left to be tried again."""
        with self._context.store.read() as reader:
            waiting = list(reader.items(Table.INBOX))
        for key, envelope in waiting:
            try:
                await self._meet(envelope)
            except NotYet:
                return True
            except (Unknown, CryptoError, DecodeError, DirectoryLies, NameChanged, NameExpired):
                await self._context.store.commit(partial(_move, key=key, envelope=envelope))
                continue
            await self._take([envelope], key)
        return False

    async def _meet(self, envelope: bytes) -> None:
        """Make the sender a contact. Raises NotYet while the directory does not answer, and what
        the checks raise when the directory says otherwise."""
        async with self._context.sessions.lock:
            try:
                opened = self._context.sessions.batch().open(
                    envelope, self._context.clock() // 1000
                )
            except Duplicate:
                return
        if opened.peer:
            return
        part = decode_body(opened.body)
        claimed = self._claimed(opened.session.peer, part)
        known = self._context.peers.get(claimed.name)
        contact = await self._context.peers.find(claimed.name, fresh=known is not None)
        if not _same(claimed, opened.session.peer, contact):
            raise CryptoError("the sender is not who the directory says")


def _same(claimed: Contact, peer: Peer, known: Contact) -> bool:
    return (
        known.profile.identity(claimed.name) == peer.identity
        and known.profile.auth == peer.auth_public
    )


def _keep(writer: Writer, table: Table, envelopes: list[bytes]) -> None:
    for envelope in envelopes:
        writer.put(table, u64(writer.next_number(table.value)), envelope)


def _move(writer: Writer, key: bytes, envelope: bytes) -> None:
    writer.delete(Table.INBOX, key)
    _keep(writer, Table.QUARANTINE, [envelope])
