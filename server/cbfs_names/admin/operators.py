"""What the operator of a name directory can ask of it while it runs."""

from cbfs_host.admin import Lines, Verb
from cbfs_host.background import Breaks, OneAtATime
from cbfs_host.store_copies import backed_up
from cbfs_names.admin.check import check
from cbfs_names.admin.figures import WatchedProcess


class DirectoryOperators:
    """Answers operators of one running process."""

    def __init__(self, watched: WatchedProcess) -> None:
        self._watched = watched
        self._store = watched.store
        self._long = OneAtATime()

    @property
    def verbs(self) -> dict[str, Verb]:
        """What can be asked."""
        return {
            "status": Verb(self._status),
            "backup": Verb(self._backup, file=True),
            "check": Verb(self._check),
        }

    async def _status(self, _words: tuple[str, ...], _file: int) -> Lines:
        return self._watched.figures().lines()

    async def _backup(self, _words: tuple[str, ...], file: int) -> Lines:
        return await self._long.run("a backup", lambda: backed_up(self._store.copy_into, file))

    async def _check(self, _words: tuple[str, ...], _file: int) -> Lines:
        found = await self._long.run("a check", lambda: check(self._store, Breaks()))
        return (
            ("sound", found.sound),
            ("records", found.records),
            ("damaged", found.damaged),
            ("rounds", found.rounds),
            ("not_logged", found.not_logged),
            ("names", found.names),
            ("not_proven", found.not_proven),
        )
