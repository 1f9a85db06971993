"""Who takes part in a conversation and is not known yet: looked up, so that the user can verify or
block them before they write.

A look-up tells the directory, and nobody else, that somebody asks for a name; so it comes over a
connection of its own, as all do, one at a time, a random time after the last. Whoever puts many
people into conversations brings about no more of them than that, and takes turns with the others
whom one knows; names that nobody has are asked for ever more seldom. Of a stranger's conversation,
which is not here before it is accepted, nobody is looked up.
"""

import trio

from cbfs.account.settings import Strangers
from cbfs.contacts.contact import Standing
from cbfs.context import Context
from cbfs.problems import Backoff, NotYet
from cbfs.storage.encoding import number_of, u64
from cbfs.storage.store import Meta, Reader, Table, Writer
from cbfs_common.errors import CbfsError
from cbfs_common.primitives import below, exponential

MEET_DELAY = 30.0
"""Mean seconds before each look-up."""

MET_MAX = 1_024
"""People who were met so, whom the user has neither written to nor decided about; past them nobody
more is looked up."""

AGAIN, AGAIN_MOST = 86_400_000, 32 * 86_400_000
"""Milliseconds until a name is asked for again that could not be confirmed; doubled each time."""

LOOK = 3_600.0
"""Seconds until the clock is looked at again."""


class Meeting:
    """Looks up who takes part in an account's conversations and is not known yet."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._wake = trio.Event()

    def news(self) -> None:
        """There is a new conversation, or something of a contact is new."""
        self._wake.set()

    async def run(self) -> None:
        """Look up one of them after the other, until cancelled."""
        random, backoff = self._context.random, Backoff(self._context.random)
        while True:
            self._wake = trio.Event()
            name = self._choose()
            if name is None:
                with trio.move_on_after(LOOK):
                    await self._wake.wait()
                continue
            await trio.sleep(exponential(random, MEET_DELAY))
            try:
                await self._meet(name)
                backoff.reset()
            except CbfsError:  # the directory or the disk: both are said elsewhere
                await trio.sleep(backoff.next())

    async def _meet(self, name: str) -> None:
        """Raises NotYet, or StoreError."""
        context = self._context
        if context.contacts.get(name) is not None:
            return
        accept = context.configuration.current.strangers is Strangers.ACCEPT
        try:
            await context.look_up.find(name, Standing.KNOWN if accept else Standing.LISTED)
        except NotYet:
            raise
        except CbfsError:
            now = context.clock()
            await context.store.commit(lambda writer: _put_off(writer, name, now))

    def _choose(self) -> str | None:
        """Somebody who is to be met: of one whom one knows, at random, that they have brought into
        a conversation."""
        brought = self._brought()
        if not brought:
            return None
        random = self._context.random
        by = sorted(brought)[below(random, len(brought))]
        names = sorted(brought[by])
        return names[below(random, len(names))]

    def _brought(self) -> dict[str, set[str]]:
        """Whom one does not know, by those one does who share a conversation with them."""
        context, peers = self._context, self._context.contacts
        contacts = peers.all()
        met = sum(c.standing is Standing.LISTED and not c.blocked for c in contacts)
        if met >= MET_MAX:
            return {}
        known = {c.name for c in contacts if c.standing is Standing.KNOWN and not c.blocked}
        brought: dict[str, set[str]] = {}
        with context.store.read() as reader:
            for conversation in context.conversations.values():
                people = set(conversation.participants) - {context.account.name}
                unmet = {
                    name
                    for name in people
                    if peers.get(name) is None
                    and context.followed.follows(name)
                    and not _is_put_off(reader, name, context.clock())
                }
                for by in people & known if unmet else ():
                    brought.setdefault(by, set()).update(unmet)
        return brought


def _key(reader: Reader, name: str) -> bytes:
    return Meta.UNMET + reader.key_part(name.encode())


def _put_off(writer: Writer, name: str, now: int) -> None:
    """A name could not be confirmed, once more."""
    _until, last = _decode(writer.get(Table.META, _key(writer, name)) or b"")
    wait = min(2 * last or AGAIN, AGAIN_MOST)
    writer.put(Table.META, _key(writer, name), _encode(now + wait, wait))


def _encode(until: int, wait: int) -> bytes:
    """until u64 | wait u64, in milliseconds."""
    return u64(until) + u64(wait)


def _decode(data: bytes) -> tuple[int, int]:
    return number_of(data[:8]), number_of(data[8:16])


def _is_put_off(reader: Reader, name: str, now: int) -> bool:
    """Whether it is not yet to be asked for again. A time that a wrong clock has written does not
    count."""
    until, _wait = _decode(reader.get(Table.META, _key(reader, name)) or b"")
    return now < until <= now + AGAIN_MOST
