"""One's own name in the directory: what was last made of it here, and whether it is still so.

``Table.META`` has ``own`` (the entry), ``bundle`` (the proof that messages carry), ``own next``
(what a change that is under way makes of it), ``alarm`` (what somebody else has made of it) and
``released`` (one has given it up).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from cbfs.names.directory import Directory
from cbfs.storage.store import Meta, Reader, Store, Table, Writer
from cbfs_common.errors import CbfsError
from cbfs_common.names.checks import (
    Absent,
    DirectoryLies,
    Fault,
    Found,
    NameChanged,
)
from cbfs_common.names.entry import Entry, Keys, Status, decode_entry, read_agent, read_keys
from cbfs_common.names.layout import Fields, long, short
from cbfs_common.profile import NO_KEM, decode_profile, same_profile

_TAMPERED = frozenset((Fault.VANISHED, Fault.SAME_VERSION, Fault.ROLLED_BACK, Fault.CHAIN))


@dataclass(frozen=True, slots=True)
class Intent:
    """A change of the own entry that is under way: the owner keys, the agent's key (empty for none)
    and the profile that it is to have."""

    owners: Keys
    agent: bytes
    profile: bytes

    def encode(self) -> bytes:
        """The record of ``Meta``: owners | short(agent) | long(profile)."""
        return self.owners.encode() + short(self.agent) + long(self.profile)

    def made(self, entry: Entry) -> bool:
        """Whether an entry is what this change leads to."""
        active = entry.status is Status.ACTIVE
        has = (entry.owners, entry.agent) == (self.owners, self.agent)
        return active and has and same_profile(entry.profile, self.profile)


def stays(entry: Entry) -> Intent:
    """A change that leaves owners, agent and profile as they are, as a renewal does."""
    return Intent(entry.owners, entry.agent, entry.profile)


def read_own(reader: Reader) -> Entry | None:
    """The own entry, as it was last made here; None for none."""
    data = reader.get(Table.META, Meta.OWN)
    return None if data is None else decode_entry(data)


def is_outlived(own: Entry | None) -> bool:
    """Whether an own entry is of before there were keys of ML-KEM: nobody of now can ask the
    directory that has it, and nobody can write to its owner."""
    return own is not None and decode_profile(own.profile).kem == NO_KEM


def read_intent(reader: Reader) -> Intent | None:
    """A change of the own name that may have been made, and whose end was not heard of; None for
    none."""
    data = reader.get(Table.META, Meta.OWN_NEXT)
    if data is None:
        return None
    fields = Fields(data, "a change of the own name")
    intent = Intent(read_keys(fields), read_agent(fields), fields.long())
    fields.end()
    return intent


def write_intent(writer: Writer, intent: Intent) -> None:
    """Note that a change of the own name begins."""
    writer.put(Table.META, Meta.OWN_NEXT, intent.encode())


def write_released(writer: Writer) -> None:
    """Note that the owner gives the name up."""
    writer.put(Table.META, Meta.RELEASED, b"\1")


def write_own(writer: Writer, found: Found) -> None:
    """Keep what the directory has as the own entry, with its proof. The change that led to it has
    ended; and whoever has made one has not given the name up, or could not."""
    _write_proof(writer, found)
    for key in (Meta.OWN_NEXT, Meta.RELEASED):
        writer.delete(Table.META, key)


def _write_proof(writer: Writer, found: Found) -> None:
    """Keep an entry that is as it should be, and end the alarm."""
    writer.put(Table.META, Meta.OWN, found.entry.encode())
    if found.bundle:
        writer.put(Table.META, Meta.BUNDLE, found.bundle)
    writer.delete(Table.META, Meta.ALARM)


def _what_others_did(own: Entry, found: Entry) -> str:
    """How an entry became another one than ``own``, in words. An agent's key renews and suspends,
    and changes nothing else."""
    renewed = replace(
        own,
        version=found.version,
        round=found.round,
        previous=found.previous,
        expires=found.expires,
    )
    if found == replace(renewed, status=Status.SUSPENDED):
        return (
            "it was frozen with the agent key that is in your account; if it was not you, somebody"
            " has a copy of the account. Your owner key frees it: cbfs name rotate --stolen"
        )
    if own.agent and found == renewed:
        return (
            "somebody has renewed it, with the agent key that is in your account or with your owner"
            " key: they have a copy"
        )
    return (
        "somebody has changed your entry, and signed with your owner key: they have that"
        " key as well"
    )


class OwnName:
    """The own name of an account, compared with what the directory has. ``changed`` is told when
    there is a new alarm, or an old one has ended."""

    def __init__(
        self, store: Store, directory: Directory, name: str, changed: Callable[[], None]
    ) -> None:
        self._store = store
        self._directory = directory
        self.name = name
        self._changed = changed
        with store.read() as reader:
            self._own = read_own(reader)
            self._intent = read_intent(reader)
            self.bundle = reader.get(Table.META, Meta.BUNDLE) or b""
            self.alarm = (reader.get(Table.META, Meta.ALARM) or b"").decode()
            self._released = reader.get(Table.META, Meta.RELEASED) is not None

    @property
    def is_outlived(self) -> bool:
        """Whether the name is in a directory of long ago, which nobody can ask any more."""
        return is_outlived(self._own)

    @property
    def is_released(self) -> bool:
        """Whether one has given the name up."""
        return self._released

    @property
    def expires(self) -> int:
        """When the registration of the name ends, in seconds since 1970."""
        return 0 if self._own is None else self._own.expires

    @property
    def round(self) -> int:
        """The round of the own entry as it was last made here; -1 for none."""
        return -1 if self._own is None else self._own.round

    async def check(self) -> None:
        """Look the own name up, over a connection of its own, and raise or end an alarm. Raises
        what says nothing of the name: DirectoryDown, and faults of the answer as a whole."""
        try:
            found = await self._directory.lookups.lookup(self.name, self._own, lapsed=True)
        except NameChanged as error:
            if self._released:
                return  # it was free for others
            await self._raise_alarm(
                "the directory has given your name to a new owner, or it was recovered with the"
                " recovery keys",
                error.entry,
            )
            return
        except DirectoryLies as error:
            if error.fault in _TAMPERED:
                await self._raise_alarm(f"{error.in_full}", None)
                return
            raise
        if isinstance(found, Absent):
            await self._raise_alarm("the directory says that nobody has your name", None)
            return
        if found.entry.status is Status.RELEASED:
            if not self._released:
                await self._raise_alarm(
                    "somebody has given your name up, with your owner key", None
                )
            return
        own, intent = self._own, self._intent
        if found.entry.heirs.keys and (own is None or own.heirs != found.entry.heirs):
            await self._raise_alarm(
                "somebody with your recovery key is taking over your name;"
                " if it was not you: cbfs name cancel",
                found.entry,
            )
            return
        if intent is not None and intent.made(found.entry) and found.entry != own:
            return  # its keys count when the command that makes it has ended
        if own is None or found.entry == own:
            await self._fine(found)
        else:
            await self._raise_alarm(_what_others_did(own, found.entry), found.entry)

    async def renew(self, seed: bytes, least: float) -> None:
        """Renew the name. ``seed``: the owner's key, or the agent's (32 bytes). ``least``: the part
        of a name's whole time that this must add. A crash after the directory has it leaves the
        rest to the next call. Raises what ``Directory.renew`` raises, and CbfsError when what the
        directory has is not what was made here."""
        if self._own is not None and self._intent is None:
            await self.check()
        own = self._own
        if own is None or self.alarm or self._released:
            raise CbfsError("it is not as you left it", "see what has changed: cbfs name show")
        intent = stays(own)
        if self._intent is None:
            await self._store.commit(lambda writer: write_intent(writer, intent))
            self._intent = intent
        elif self._intent != intent:
            raise CbfsError(
                "a change of your keys or server is not finished",
                "unmount, and run the same cbfs name command again",
            )
        found = await self._directory.renew(self.name, seed, own, least=least)
        if not found.degraded:
            await self._store.commit(lambda writer: write_own(writer, found))
            self._intent, self._own = None, found.entry
            self.bundle = found.bundle or self.bundle

    async def _fine(self, found: Found) -> None:
        if found.degraded:
            return
        await self._store.commit(lambda writer: _write_proof(writer, found))
        self._own = found.entry
        self.bundle = found.bundle or self.bundle
        if self.alarm:
            self.alarm = ""
            self._changed()

    async def _raise_alarm(self, what: str, entry: Entry | None) -> None:
        text = what if entry is None else f"{what} (version {entry.version}, round {entry.round})"
        if text != self.alarm:
            data = text.encode()
            await self._store.commit(lambda writer: writer.put(Table.META, Meta.ALARM, data))
            self.alarm = text
            self._changed()
