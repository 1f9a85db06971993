"""The starts that have come to last-resort prekeys, whose secrets stay: a copy of one whose session
is gone would begin it anew. What comes later of one that others have crowded out does so.

A record of ``Table.META`` for each, under the session's id, with the prekey's and when it came. It
is written in the transaction that takes the start in, and goes with the prekey's secret. Past
STARTS_MAX the oldest go.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass

from cbfs.storage.encoding import pack, unpack
from cbfs.storage.store import Meta, Reader, Table, Writer
from cbfs_common.limits import STARTS_MAX
from cbfs_common.session.session import NUMBER_END


@dataclass(frozen=True, slots=True)
class SeenStart:
    """A start to the last-resort prekey of this id; ``came`` orders them. Its messages from number
    ``next`` on begin it anew, when its session is not there: none, unless it was crowded out."""

    prekey: bytes
    came: int
    next: int = NUMBER_END

    def encode(self) -> bytes:
        """As the record of a session's id."""
        return pack(self.prekey, self.came, self.next)


def _decode(data: bytes) -> SeenStart:
    return SeenStart(*unpack(data, bytes, int, int))


class SeenStarts:
    """Those of one account, by the id of their session; in memory as they are in the store."""

    def __init__(self, reader: Reader) -> None:
        records = reader.items(Table.META, prefix=Meta.START)
        self._known = {key[len(Meta.START) :]: _decode(data) for key, data in records}

    def get(self, session: bytes) -> SeenStart | None:
        """The one of this session, if it is remembered."""
        return self._known.get(session)

    def write(self, writer: Writer, more: Mapping[bytes, SeenStart]) -> None:
        """Write some more; the oldest make room."""
        for session, start in more.items():
            writer.put(Table.META, Meta.START + session, start.encode())
        for session in self._excess(more):
            writer.delete(Table.META, Meta.START + session)

    def written(self, more: Mapping[bytes, SeenStart]) -> None:
        """That transaction is on the disk."""
        excess = self._excess(more)
        self._known |= more
        for session in excess:
            self._known.pop(session, None)

    def _excess(self, more: Mapping[bytes, SeenStart]) -> list[bytes]:
        if not more:
            return []
        known = {**self._known, **more}
        oldest = sorted(known, key=lambda session: known[session].came)
        return oldest[: max(0, len(oldest) - STARTS_MAX)]

    def old(self, prekeys: Container[bytes]) -> list[bytes]:
        """Those to which no prekey of these belongs: nobody can send them again."""
        return [id_ for id_, start in self._known.items() if start.prekey not in prekeys]

    def drop(self, sessions: list[bytes]) -> None:
        """Forget these, which are not on the disk any more."""
        for session in sessions:
            self._known.pop(session, None)
