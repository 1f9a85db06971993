"""What was acknowledged while disks were written down, and the files of a recording."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from tests.power.images import Journal, Position


@dataclass(frozen=True, slots=True)
class Ack:
    """``position``: of the disks when somebody was told."""

    position: int
    kind: str
    what: str


class Acks:
    """What was acknowledged, written down by several processes."""

    def __init__(self, path: Path, position: Position) -> None:
        self._path = path
        self._position = position

    def write(self, kind: str, what: str) -> None:
        """Opens the file each time: a daemon keeps no descriptors of who started it."""
        line = json.dumps([self._position.now(), kind, what]).encode() + b"\n"
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)


def read_acks(path: Path) -> list[Ack]:
    if not path.exists():
        return []
    return [Ack(*json.loads(line)) for line in path.read_text().splitlines()]


class Recording:
    """Files of one, in a directory."""

    def __init__(self, place: Path, names: tuple[str, ...]) -> None:
        self.place = place
        self.names = names
        self.journal = place / "journal"
        self.base = place / "base"
        self.acks = place / "acks"
        self.log = place / "log"

    def written(self) -> Acks:
        """To write down what is acknowledged, while the disks run."""
        return Acks(self.acks, Position(self.journal.with_suffix(".position")))

    def load(self) -> tuple[Journal, list[Ack]]:
        """What was written down."""
        return Journal(self.journal, self.base, self.names), read_acks(self.acks)
