"""What mail programs have said of messages by names, and is not in the store yet.

A program that gives a message another name says nothing that could not be said once more: as on
any disk, that is there at once, and on the disk a moment later. So a thousand names cost one
transaction. A crash before that leaves the names of before.
"""

from collections.abc import Callable
from typing import NamedTuple

import trio

from cbfs.messages import search_index
from cbfs.messages.marks import mail_notes
from cbfs.messages.marks.mail_notes import Noted, Notes
from cbfs.messages.search_index import SEGMENT
from cbfs.storage.faults import Tasks
from cbfs.storage.store import Store, Writer

PUT_OFF = 0.5
"""Seconds for which something that was said is put off."""


class Said(NamedTuple):
    """Of one message: what is to be noted of it, and, if that is another than before, whether it is
    read."""

    noted: Noted
    read: bool | None


class Sayings:
    """What was said of messages, by their serials, until it is stored, by ``tasks``."""

    def __init__(self, store: Store, tasks: Tasks) -> None:
        self._store = store
        self._tasks = tasks
        self._said: dict[int, dict[int, Said]] = {}
        self._storing = False

    def say(self, serial: int, noted: Noted, read: bool | None) -> None:
        """Store this of a message soon. ``read`` is None where that is as it was."""
        segment, number = divmod(serial, SEGMENT)
        those = self._said.setdefault(segment, {})
        before = those.get(number)
        those[number] = Said(noted, before.read if before and read is None else read)
        if not self._storing:
            self._storing = True
            self._tasks.start_soon(self._store_soon)

    def noted(self, serial: int) -> Noted | None:
        """What is to be noted of a message, if anything is."""
        said = self._said.get(serial // SEGMENT, {}).get(serial % SEGMENT)
        return said.noted if said else None

    def notes(self, segment: int) -> Notes:
        """What is to be noted of the messages of a segment."""
        return {number: said.noted for number, said in self._said.get(segment, {}).items()}

    def was_read(self, serial: int) -> None:
        """Somebody has read a message since, which is stored elsewhere."""
        segment, number = divmod(serial, SEGMENT)
        said = self._said.get(segment, {}).get(number)
        if said is not None and said.read is False:
            self._said[segment][number] = said._replace(read=None)

    def forget(self, serial: int) -> None:
        """A message is gone."""
        self._said.get(serial // SEGMENT, {}).pop(serial % SEGMENT, None)

    async def store(self) -> None:
        """Return when all that was said before is on the disk. Raises StoreError."""
        while any(self._said.values()):
            told = self._all()
            await self._store.commit(self.keep())
            for serial, said in told.items():
                segment, number = divmod(serial, SEGMENT)
                if self._said.get(segment, {}).get(number) is said:
                    del self._said[segment][number]
        self._said.clear()

    async def _store_soon(self) -> None:
        try:
            await trio.sleep(PUT_OFF)
            await self.store()
        finally:
            self._storing = False

    def _all(self) -> dict[int, Said]:
        return {
            segment * SEGMENT + number: said
            for segment, those in self._said.items()
            for number, said in those.items()
        }

    def keep(self) -> Callable[[Writer], None]:
        """The change that stores it, but of messages that are gone by now."""
        said = {segment: dict(those) for segment, those in self._said.items() if those}

        def change(writer: Writer) -> None:
            read: dict[bool, list[int]] = {True: [], False: []}
            for segment, those in said.items():
                there = {number for number, *_ in search_index.entries(writer, segment)}
                left = {number: each for number, each in those.items() if number in there}
                notes = {number: each.noted for number, each in left.items()}
                mail_notes.note_all(writer, segment, notes)
                for number, each in left.items():
                    if each.read is not None:
                        read[each.read].append(segment * SEGMENT + number)
            for is_read, serials in read.items():
                if serials:
                    search_index.set_read(writer, serials, read=is_read)

        return change
