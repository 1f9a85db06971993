"""What the mount asks of the engine about people: see ``cbfs.interface.Backend``."""

from typing import Self

from cbfs.contacts.contact import Contact, Mark, Standing
from cbfs.contacts.fingerprint import Fingerprint
from cbfs.context import Context
from cbfs.engine.renaming import Renaming
from cbfs.interface import MessageRequest
from cbfs.receiving import message_requests
from cbfs.receiving.message_requests import Admission


class Acquaintances:
    """The part of an ``Engine`` that is about contacts."""

    _admission: Admission
    _renaming: Renaming

    def __init__(self, context: Context) -> None:
        self._context = context

    @property
    def people(self) -> Self:
        """Contacts and strangers."""
        return self

    def contacts(self) -> tuple[Contact, ...]:
        """See ``Backend``."""
        return self._context.contacts.all()

    def contact(self, name: str) -> Contact | None:
        """See ``Backend``."""
        return self._context.contacts.get(name)

    def compare(self, name: str) -> Fingerprint:
        """See ``Backend``."""
        contacts = self._context.contacts
        return contacts.compare(contacts.named(name))

    async def verify(self, name: str, text: str) -> bool:
        """See ``Backend``."""
        return await self._context.contacts.verify(name, text)

    async def unverify(self, name: str) -> None:
        """See ``Backend``."""
        await self._context.contacts.unverify(name)

    async def accept(self, name: str) -> None:
        """See ``Backend``."""
        await self._context.contacts.accept(name)

    async def mark(self, name: str, mark: Mark, *, on: bool) -> None:
        """See ``Backend``."""
        await self._admission.mark(name, mark, on=on)

    def request(self, name: str) -> MessageRequest | None:
        """See ``Backend``."""
        contact = self._context.contacts.get(name)
        if contact is None or contact.standing is Standing.KNOWN:
            return None
        with self._context.store.read() as reader:
            return message_requests.request(reader, name)

    def label(self, name: str) -> str:
        """See ``Backend``."""
        return self._context.contacts.label(name)

    def called(self, text: str) -> str:
        """See ``Backend``."""
        return self._context.contacts.called(text)

    async def rename(self, name: str, petname: str) -> None:
        """See ``Backend``."""
        await self._renaming.rename(name, petname)

    async def admit(self, name: str) -> None:
        """See ``Backend``."""
        await self._admission.admit([name])

    async def decline(self, name: str) -> None:
        """See ``Backend``."""
        await self._admission.decline(name)

    def asking(self) -> tuple[str, ...]:
        """The strangers whose requests wait."""
        names = [c.name for c in self.contacts() if c.standing is not Standing.KNOWN]
        with self._context.store.read() as reader:
            return tuple(self.label(name) for name in names if message_requests.waits(reader, name))
