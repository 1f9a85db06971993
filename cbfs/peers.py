"""Who is who: names, as the directory proves them, and the contacts that were learnt so.

A contact is stored when its name has been looked up and proven; from then on every entry that
the directory shows for the name must be a successor of the stored one (``Directory.lookup``).
"""

from collections.abc import Callable, Iterable

import trio

from cbfs.directory import Directory, DirectoryDown
from cbfs.model import Contact, NotYet, Refused
from cbfs.packing import pack, unpack
from cbfs.store import Store, Table, Writer
from cbfs_common.errors import DecodeError
from cbfs_common.names_client import Absent
from cbfs_common.names_entry import Entry, decode_entry
from cbfs_common.profile import check_name, decode_profile

PREPARE_MAX = 256
"""Names that wait for a look-up in the background."""


class Unknown(Refused):
    """Nobody has these names: the directory proves it."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = frozenset(names)
        listed = ", ".join(sorted(self.names))
        super().__init__(
            f"nobody is called {listed}", "rename the folder, or mend participants in metadata.toml"
        )


class Peers:
    """The contacts, in memory and in the store."""

    def __init__(self, store: Store, directory: Directory, clock: Callable[[], int]) -> None:
        self._store = store
        self._directory = directory
        self._clock = clock
        self._lock = trio.Lock()
        self._known: dict[str, tuple[Contact, Entry]] = {}
        self._names: dict[bytes, str] = {}  # by identity
        with store.read() as reader:
            for _key, data in reader.items(Table.PEERS):
                contact, entry = _decode(data)
                self._take(contact, entry)

    def all(self) -> tuple[Contact, ...]:
        """By name."""
        return tuple(self._known[name][0] for name in sorted(self._known))

    def get(self, name: str) -> Contact | None:
        """The contact, when it is known."""
        known = self._known.get(name)
        return known[0] if known else None

    def of_identity(self, identity: bytes) -> Contact | None:
        """The contact with this ``Profile.identity``, when it is known."""
        name = self._names.get(identity)
        return self.get(name) if name else None

    async def find(self, name: str, *, fresh: bool = False) -> Contact:
        """The contact of that name, from the directory when it is not known (or when what is
        known has to be ``fresh``). Raises Unknown, or NotYet when the directory cannot say."""
        async with self._lock:
            known = self._known.get(name)
            if known and not fresh:
                return known[0]
            try:
                found = await self._directory.lookup(name, known[1] if known else None)
            except DirectoryDown as error:
                raise NotYet(str(error), error.hint) from error
            if isinstance(found, Absent):
                raise Unknown([name])
            contact = Contact(
                name,
                decode_profile(found.entry.profile),
                known[0].since if known else self._clock(),
            )
            await self._keep(contact, found.entry)
            return contact

    async def find_all(self, names: Iterable[str]) -> None:
        """Like ``find`` for each; Unknown names them all at once."""
        unknown: set[str] = set()
        for name in names:
            try:
                await self.find(checked(name))
            except Unknown as error:
                unknown |= error.names
        if unknown:
            raise Unknown(unknown)

    async def _keep(self, contact: Contact, entry: Entry) -> None:
        record = pack(contact.name, contact.profile.encode(), entry.encode(), contact.since)

        def change(writer: Writer) -> None:
            writer.put(Table.PEERS, writer.blind(contact.name.encode()), record)

        await self._store.commit(change)
        self._take(contact, entry)

    def _take(self, contact: Contact, entry: Entry) -> None:
        before = self.get(contact.name)
        if before is not None:  # keys that the directory has replaced prove nothing any more
            self._names.pop(before.profile.identity(contact.name), None)
        self._known[contact.name] = contact, entry
        self._names[contact.profile.identity(contact.name)] = contact.name


def checked(name: str) -> str:
    """A name that can be looked up. Raises Refused for one that nobody can have."""
    try:
        return check_name(name)
    except DecodeError as error:
        raise Refused(f"{name!r} is not a user name", error.hint) from error


def _decode(data: bytes) -> tuple[Contact, Entry]:
    name, profile, entry, since = unpack(data, str, bytes, bytes, int)
    return Contact(name, decode_profile(profile), since), decode_entry(entry)
