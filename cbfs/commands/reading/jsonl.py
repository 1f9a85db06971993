"""History as lines of JSON, one for each message (``cbfs.commands.reading.record``), and a folder
of the files beside it."""

from pathlib import Path
from typing import BinaryIO

from cbfs.commands.reading.past import Past, PastMessage
from cbfs.commands.reading.places import save, saved_name
from cbfs.commands.reading.record import as_line, record_of
from cbfs_common.errors import CbfsError

FILES = ".files"
"""What stands behind the name of the file, as the name of the folder with the files."""


class Lines:
    """Writes messages as lines into ``file``, and their files into ``folder``, which is called so
    in the lines: ``called``."""

    def __init__(self, past: Past, me: str, file: BinaryIO, folder: Path, called: str) -> None:
        self._past = past
        self._me = me
        self._file = file
        self._folder = folder
        self._called = called

    def add(self, told: PastMessage) -> None:
        """Write one. Raises DamagedRecord, and then nothing of it is left; OSError."""
        saved: list[Path] = []
        try:
            for index, file in enumerate(told.files):
                path = self._folder / saved_name(told.message, index, file.name)
                save(path, self._past.stretches(told.message, file))
                saved.append(path)
        except CbfsError:
            for path in saved:
                path.unlink()
            raise
        where = [f"{self._called}/{path.name}" for path in saved]
        self._file.write(as_line(record_of(self._past, told, self._me, where)).encode())
