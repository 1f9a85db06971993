"""The monitor: keeps up with the name directory without looking names up.

Heads and change feeds are polled (``cbfs.contacts.feeds``). A contact whose entry has changed is
in doubt until a bundle in a message of theirs shows how it is now, or, when none comes in time, a
look-up over a connection of its own. One's own name is monitored: a change that was not made here
raises an alarm.
"""

import math
from collections.abc import Callable
from hashlib import blake2b
from heapq import heappop, heappush

import trio

from cbfs.contacts.contact import Contact, How, Standing
from cbfs.contacts.contacts import Contacts
from cbfs.contacts.feeds import Feeds
from cbfs.contacts.look_up import ContactLookUp, Stopped, asking
from cbfs.names.followed import FollowedDirectories, UnknownDirectory
from cbfs.names.lookups import Polled
from cbfs.names.own_name import OwnName
from cbfs.problems import Backoff, NotYet, Problems, Retries
from cbfs.storage.faults import contained, unharmed
from cbfs_common.errors import CbfsError, CryptoError
from cbfs_common.names.checks import NameChanged, Shown, open_bundle
from cbfs_common.primitives import Random

LOOKUP_DELAY = 60.0
"""Mean seconds from a doubt to the look-up that settles it: time for a bundle to come, and so that
who watches the directory cannot tell by the time who looks up whom."""

BUNDLES_WAITING = 64
"""Bundles of known contacts that wait to be looked at; what is more is left to the next message."""

SEEN_MAX = 16_384
"""People whose last bundle is remembered: past them all are looked at once more."""

LOOKUPS_AT_ONCE = 4
"""Names in doubt that are looked up side by side."""

REFRESH = 86_400.0
"""Seconds after which the bundle of one's own name is fetched anew: others follow the feed from
its head on."""


class Monitor:
    """Keeps an account's contacts and own name up with the directory. ``back`` is called when the
    directory answers, or what was in doubt is settled."""

    def __init__(
        self,
        contacts: Contacts,
        look_up: ContactLookUp,
        followed: FollowedDirectories,
        own: OwnName,
        problems: Problems,
        retries: Retries,
        random: Random,
        back: Callable[[], None],
    ) -> None:
        self._contacts = contacts
        self._look_up = look_up
        self._followed = followed
        self._own = own
        self._problems = problems
        self._retries = retries
        self._random = random
        self._back = back
        self._feeds = Feeds(
            contacts, followed, problems, retries, random, self._own_changed, self._settle_doubts
        )
        self._settling: set[str] = set()
        self._doubts: list[tuple[float, str]] = []  # when to ask for whom
        self._doubt = trio.Event()
        self._slots = trio.Semaphore(LOOKUPS_AT_ONCE)
        self._seen: dict[str, bytes] = {}
        self._send, self._receive = trio.open_memory_channel[tuple[str, bytes]](BUNDLES_WAITING)

    async def run(self) -> None:
        """Poll, settle doubts and look at bundles until cancelled."""
        self._settling.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._take_bundles)
            nursery.start_soon(self._refresh_own)
            nursery.start_soon(self._settle_for_ever)
            await self._feeds.run()

    def offer(self, name: str, bundle: bytes) -> None:
        """Let a bundle be looked at that came in a message of this contact. Returns at once; one
        that was seen costs nothing."""
        digest = blake2b(bundle, digest_size=16).digest()
        if bundle and self._seen.get(name) != digest:
            try:
                self._send.send_nowait((name, bundle))
            except trio.WouldBlock:
                return
            if len(self._seen) >= SEEN_MAX:
                self._seen.clear()
            self._seen[name] = digest

    async def confirm(self, shown: Shown, standing: Standing) -> Contact:
        """Make the sender of a bundle, whose succession was checked, a contact of this standing if
        they are not known yet; by a look-up only when the change feed does not settle it. Raises
        what ``ContactLookUp.find`` raises, or CryptoError for a bundle older than what is known."""
        contacts = self._contacts
        name = contacts.directories.text(shown.person)
        known = contacts.get(name)
        entry = known.followed if known else None
        if entry is not None and _age(shown) < (entry.incarnation, entry.version):
            raise CryptoError("the bundle is older than what is known")
        if await self._is_current(shown):
            return await contacts.learn(name, shown.entry, How.BUNDLE, standing)
        return await self._look_up.find(name, standing)

    # one's own name

    async def _own_changed(self, polled: Polled) -> None:
        """A poll of one's own directory has brought this."""
        changed = polled.changed.get(self._contacts.prefix(self._own.name), -1)
        if changed > self._own.round:
            await self._own.check()

    async def _refresh_own(self) -> None:
        backoff = Backoff(self._random)
        while True:
            try:
                with contained():
                    await self._own.check()
                self._problems.clear("own name")
                wait = REFRESH
            except CbfsError as error:
                self._problems.set("own name", f"your own name was not checked: {error.in_full}")
                wait = backoff.next()
            await trio.sleep(wait)

    # bundles and doubts

    async def _take_bundles(self) -> None:
        async for name, bundle in self._receive:
            try:
                with contained():
                    await self._take_bundle(name, bundle)
                self._problems.clear(f"bundle {name}")
            except NotYet:
                self._seen.pop(name, None)
            except (Stopped, UnknownDirectory):
                pass  # the one is said in contacts/; of the other nothing can be checked
            except CbfsError as error:
                self._disbelieve(name, error)

    def _disbelieve(self, name: str, error: CbfsError) -> None:
        known = self._contacts.get(name)
        if known is not None and known.standing is not Standing.STRANGER:
            who = self._contacts.label(name)
            self._problems.set(
                f"bundle {name}",
                f"a proof of {who}'s name was not believed: {error.in_full}; what was known of"
                f" them holds (should it go on, ask {who} by another way whether all is well)",
            )

    async def _take_bundle(self, name: str, bundle: bytes) -> None:
        """Look at the bundle of somebody whose session is known: their own word on who they are
        now."""
        contacts = self._contacts
        known = contacts.get(name)
        if known is None:
            return
        try:
            shown = open_bundle(self._followed.of_name(name).policy, bundle, known.entry)
        except NameChanged as error:
            await self.confirm_change(name, error)
            return
        if _age(shown) < (known.entry.incarnation, known.entry.version):
            return
        if shown.entry == known.entry and not known.doubted:
            return
        current = await self._is_current(shown)
        if shown.entry != known.entry:
            # signed by the owner: it holds, be it the newest or not
            known = await contacts.learn(name, shown.entry, How.BUNDLE, known.standing)
            if not current:
                changed = {contacts.prefix(name): known.entry.round + 1}
                await contacts.doubt(shown.directory, changed)
        elif current:
            known = await contacts.learn(name, shown.entry, How.BUNDLE, known.standing)
        self._back()

    async def confirm_change(self, name: str, error: NameChanged) -> None:
        """Keep the new owner of a contact's name that a bundle shows, for the user to decide."""
        await self._contacts.offer(name, error.entry)
        self._back()

    async def _is_current(self, shown: Shown) -> bool:
        """Whether what a bundle shows is still so; one that is newer than the last poll brings
        about another. Raises NotYet, DirectoryLies or UnknownDirectory."""
        lookups = self._followed.of(shown.directory)
        with asking():
            if lookups.is_ahead(shown):
                await self._feeds.poll(lookups)
            return bool(await lookups.is_current(shown))

    def _settle_doubts(self) -> None:
        """Give everybody who is in doubt since now a time to be looked up."""
        now = trio.current_time()
        for contact in self._contacts.all():
            stranger = contact.standing is Standing.STRANGER  # who may not bring about a look-up
            asked = self._followed.follows(contact.name) and not stranger
            if contact.doubted and asked and contact.name not in self._settling:
                self._settling.add(contact.name)
                heappush(self._doubts, (now + self._soon(LOOKUP_DELAY), contact.name))
                self._doubt.set()

    async def _settle_for_ever(self) -> None:
        """Ask for the names that are still in doubt when their time is over, each over a connection
        of its own, in turns of the account's."""
        async with trio.open_nursery() as nursery:
            while True:
                self._doubt = trio.Event()
                wait = self._doubts[0][0] - trio.current_time() if self._doubts else math.inf
                if wait > 0:
                    with trio.move_on_after(wait):
                        await self._doubt.wait()
                    continue
                _due, name = heappop(self._doubts)
                if self._is_doubted(name):
                    await self._retries.turn()
                    await self._slots.acquire()
                    nursery.start_soon(self._settle, name)
                else:
                    self._settled(name)

    def _is_doubted(self, name: str) -> bool:
        known = self._contacts.get(name)
        return known is not None and known.doubted > 0

    def _settled(self, name: str) -> None:
        self._settling.discard(name)
        with unharmed():
            self._back()

    async def _settle(self, name: str) -> None:
        """Ask for one name, over a connection of its own."""
        topic, retries = f"doubt {name}", self._retries
        who = self._contacts.label(name)
        try:
            with contained():
                await self._look_up.find(name)
        except NotYet as error:
            self._problems.set(topic, f"{who} cannot be looked up: {error.in_full}")
            heappush(self._doubts, (trio.current_time() + retries.failed(topic), name))
            self._doubt.set()
            return
        except CbfsError as error:
            self._problems.set(topic, f"{who}: {error.in_full}")
        else:
            self._problems.clear(topic)
        finally:
            self._slots.release()
        # not that it worked: the home server, tried again at that, would see who looks up whom
        retries.forget(topic)
        self._settled(name)

    def _soon(self, mean: float) -> float:
        """Exponentially distributed seconds, ``mean`` in the mean."""
        number = int.from_bytes(self._random.token(7), "big") + 1
        return -mean * math.log(number / (1 << 56))


def _age(shown: Shown) -> tuple[int, int]:
    return shown.entry.incarnation, shown.entry.version
