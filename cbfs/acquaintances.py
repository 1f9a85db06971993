"""What the mount asks of the engine about people: see ``cbfs.model.Backend``."""

from cbfs.contact import Contact, Mark
from cbfs.context import Context
from cbfs.fingerprint import Fingerprint


class Acquaintances:
    """The part of an ``Engine`` that is about contacts."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def contacts(self) -> tuple[Contact, ...]:
        """See ``Backend``."""
        return self._context.peers.all()

    def contact(self, name: str) -> Contact | None:
        """See ``Backend``."""
        return self._context.peers.get(name)

    def compare(self, name: str) -> Fingerprint:
        """See ``Backend``."""
        peers = self._context.peers
        return peers.compare(peers.named(name))

    async def verify(self, name: str, text: str) -> bool:
        """See ``Backend``."""
        return await self._context.peers.verify(name, text)

    async def unverify(self, name: str) -> None:
        """See ``Backend``."""
        await self._context.peers.unverify(name)

    async def accept(self, name: str) -> None:
        """See ``Backend``."""
        await self._context.peers.accept(name)

    async def mark(self, name: str, mark: Mark, *, on: bool) -> None:
        """See ``Backend``."""
        await self._context.peers.mark(name, mark, on=on)
