"""What the operator of a message server can ask of it while it runs."""

import argparse
import sys
from functools import partial

from cbfs_common.primitives import KEY_SIZE
from cbfs_host.admin import Asked, Lines, Verb
from cbfs_host.admin_command import Subcommands, ask, show
from cbfs_host.background import Breaks, OneAtATime
from cbfs_host.complaints import HostError
from cbfs_host.store_copies import backed_up
from cbfs_server.figures import WatchedServer
from cbfs_server.limits import SUSPENDED_MAX
from cbfs_server.store.operations import EndAccount, Suspend


class ServerOperators:
    """Answers operators of one running server."""

    def __init__(self, watched: WatchedServer) -> None:
        self._watched = watched
        self._store = watched.store
        self._long = OneAtATime()

    @property
    def verbs(self) -> dict[str, Verb]:
        """What can be asked."""
        return {
            "status": Verb(self._status),
            "backup": Verb(self._backup, file=True),
            "compact": Verb(self._compact),
            "check": Verb(self._check),
            "remove": Verb(self._remove, 1, 1),
            "suspend": Verb(self._suspend, 1, 1),
            "resume": Verb(self._resume, 1, 1),
            "suspended": Verb(self._suspended),
        }

    async def _status(self, _words: tuple[str, ...], _file: int) -> Lines:
        return self._watched.figures().lines()

    async def _backup(self, _words: tuple[str, ...], file: int) -> Lines:
        return await self._long.run("a backup", lambda: backed_up(self._store.copy_into, file))

    async def _compact(self, _words: tuple[str, ...], _file: int) -> Lines:
        before, after = await self._long.run("compacting", self._store.compact)
        return ("bytes_before", before), ("bytes", after)

    async def _check(self, _words: tuple[str, ...], _file: int) -> Lines:
        found = await self._long.run("a check", lambda: self._store.check(Breaks()))
        return (
            ("sound", found.sound),
            ("records", found.records),
            ("damaged", found.damaged),
            ("accounts", found.accounts),
            ("incomplete", found.incomplete),
        )

    async def _remove(self, words: tuple[str, ...], _file: int) -> Lines:
        user = parse_user(words[0])
        envelopes = await self._store.commit(EndAccount(user))
        if envelopes is None:
            raise HostError("there is no such account", "is it at another server?")
        self._end(user)
        return (("envelopes", envelopes),)

    async def _suspend(self, words: tuple[str, ...], _file: int) -> Lines:
        user = parse_user(words[0])
        if len(self._store.suspended | {user}) > SUSPENDED_MAX:
            raise HostError(f"{SUSPENDED_MAX} users are suspended, and no more can be")
        await self._store.commit(Suspend(user, on=True))
        self._end(user)
        return (("suspended", len(self._store.suspended)),)

    async def _resume(self, words: tuple[str, ...], _file: int) -> Lines:
        user = parse_user(words[0])
        if user not in self._store.suspended:
            raise HostError("this user is not suspended", "cbfs-server admin DIR suspended")
        await self._store.commit(Suspend(user, on=False))
        return (("suspended", len(self._store.suspended)),)

    async def _suspended(self, _words: tuple[str, ...], _file: int) -> Lines:
        return tuple((user.hex(), None) for user in sorted(self._store.suspended))

    def _end(self, user: bytes) -> None:
        """End what the user has open."""
        self._watched.pusher.forget(user)
        for server in self._watched.servers:
            server.end(user)


def add_users(commands: Subcommands) -> None:
    """Add the commands that are about single users."""
    for verb, what in (
        ("remove", "forget an account and all that is stored for it"),
        ("suspend", "refuse all that a user asks, and all that is for that user"),
        ("resume", "serve again a user who was suspended"),
    ):
        parser = commands.add_parser(verb, help=what)
        parser.add_argument("user", metavar="USERID", help="user_id in profile.toml of a contact")
        parser.set_defaults(run=partial(_of_user, verb))
    parser = commands.add_parser("suspended", help="list who is suspended")
    parser.set_defaults(run=_list_suspended)


def _of_user(verb: str, got: argparse.Namespace) -> None:
    show(ask(got.place, Asked(verb, (got.user,))), as_json=False)


def _list_suspended(got: argparse.Namespace) -> None:
    for user, _ in ask(got.place, Asked("suspended")):
        sys.stdout.write(f"{user}\n")


def parse_user(text: str) -> bytes:
    """The user id (32) that ``profile.toml`` shows as ``user_id``, in hexadecimal digits. Raises
    HostError."""
    try:
        user = bytes.fromhex(text)
    except ValueError:
        user = b""
    if len(user) != KEY_SIZE or text.strip() != text or len(text) != 2 * KEY_SIZE:
        raise HostError(
            "a user id is 64 hexadecimal digits", "it is the user_id in profile.toml of a contact"
        )
    return user
