"""The settings in effect, kept in the store."""

import trio

from cbfs.account.settings import Settings, SettingsError, decode, encode
from cbfs.storage.store import Meta, Store, Table
from cbfs_common.errors import CbfsError


class Configuration:
    """One for an account at work."""

    def __init__(self, store: Store) -> None:
        """Raises CbfsError for settings that this version does not know: to go on without them
        might show what they were to hide."""
        with store.read() as reader:
            data = reader.get(Table.META, Meta.SETTINGS)
        try:
            self._current = Settings() if data is None else decode(data)
        except SettingsError as error:
            raise CbfsError(
                f"the settings of the account cannot be used: {error}",
                "they were made by another version: use that one",
            ) from error
        self._store = store
        self._changed = trio.Event()

    @property
    def current(self) -> Settings:
        """As they are now: read them at each use."""
        return self._current

    @property
    def pace(self) -> float:
        """Mean seconds between two turns to connect; 0: at once."""
        return self._current.pace

    async def change(self, settings: Settings) -> None:
        """In effect, and on the disk, on return. A crash before the commit leaves the old ones,
        one after it the new ones."""
        if settings == self._current:
            return
        data = encode(settings)
        await self._store.commit(lambda writer: writer.put(Table.META, Meta.SETTINGS, data))
        self._current = settings
        self._changed.set()
        self._changed = trio.Event()

    async def wait_changed(self) -> None:
        """Until they are others."""
        await self._changed.wait()
