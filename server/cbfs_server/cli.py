"""The program cbfs-server."""

import argparse
import contextlib
import os
import resource
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import trio

from cbfs_common.errors import DecodeError
from cbfs_common.onion import PORT
from cbfs_common.primitives import Random, kem_encapsulate
from cbfs_common.profile import Address
from cbfs_common.wire.transport import SERVER_SECRET_SIZE, ServerSecret
from cbfs_host.admin import answer_operators, operators_socket
from cbfs_host.admin_command import add_status, administer
from cbfs_host.calendar import DAY
from cbfs_host.complaints import CHECK_DATA, HostError, hint_of
from cbfs_host.files import opened_data, trusted_path, write_file
from cbfs_host.garbage import look_less_for_cycles
from cbfs_host.listening import Place, listen_all, listen_locally, local, place_of
from cbfs_host.live_limits import LiveLimits, add_limits
from cbfs_host.logs import ServerLog, keep_going, log_to
from cbfs_host.meter import Meters
from cbfs_host.metrics import listening_for_metrics, show
from cbfs_host.onion import Onion, chosen
from cbfs_host.program import start, until_asked
from cbfs_host.rereading import Rereading
from cbfs_host.settings import Current, number
from cbfs_host.store_copies import add_compact, add_copying
from cbfs_host.systemd import Manager, passed_sockets
from cbfs_server.admin import ServerOperators, add_users
from cbfs_server.figures import WatchedServer
from cbfs_server.housekeeping import Housekeeping
from cbfs_server.limits import INVITE_DAYS, INVITE_DAYS_MAX, READ_SIZE, Limits
from cbfs_server.lmdb_store.store import LmdbStore
from cbfs_server.metrics import FAMILIES, PREFIX
from cbfs_server.newcomers import OPEN, Newcomers, Registrar, make_grant, make_invite
from cbfs_server.push import Pusher
from cbfs_server.settings import DEFAULT_LISTEN, Options, limits_of, options_of, parse
from cbfs_server.sockets import Server
from cbfs_server.store.interface import MailboxStore

NAME = "cbfs-server"

PROGRAM = "cbfs"
"""How its errors begin: a mount that runs a server looks for them."""

STDIN = 0


def add_invite(parser: argparse.ArgumentParser) -> None:
    """Give ``parser`` the options of ``cbfs-server invite``."""
    parser.add_argument("--data", metavar="DIR", type=Path, required=True, help="key and store")
    parser.add_argument(
        "--days", type=_invite_days, default=INVITE_DAYS, help="valid for (default: %(default)s)"
    )
    parser.add_argument(
        "--grant",
        action="store_true",
        help="not an invite, but what lets an account invite others (user-invites)",
    )


def _invite_days(text: str) -> int:
    try:
        found: int = number(1, INVITE_DAYS_MAX).read(text)
    except DecodeError as error:
        raise argparse.ArgumentTypeError(error.in_full) from error
    return found


def invite(arguments: list[str]) -> None:
    """Print an invite; the server may run meanwhile. Raises HostError."""
    parser = argparse.ArgumentParser(
        prog="cbfs-server invite", description="Prints an invite, by which one account is made."
    )
    add_invite(parser)
    options = parser.parse_args(arguments)
    path = options.data / "key"
    if not path.exists():
        raise HostError(f"there is no {path}", "is it the right --data? Start the server once")
    random = Random(os.urandom, kem_encapsulate)
    secret = load_key(path, random)
    if options.grant:
        print(make_grant(secret, random).text())
        return
    expires = int(time.time()) + options.days * DAY
    print(make_invite(secret, expires, random).text())


def load_key(path: Path, random: Random) -> ServerSecret:
    """The server's secret keys (SERVER_SECRET_SIZE bytes, file 0600), made when there are none. A
    crash leaves the whole file or none; the store is made after it. Raises HostError."""
    try:
        with contextlib.suppress(FileNotFoundError):
            return ServerSecret(path.read_bytes())
        if (path.parent / "store").exists():
            raise HostError(
                f"{path} is missing, which is the server's address",
                "put it back from a backup: the store beside it belongs to it;"
                " a new server begins in an empty --data",
            )
        secret = ServerSecret(random.token(SERVER_SECRET_SIZE))
        write_file(path, secret.encoded)
        return secret
    except DecodeError as error:
        raise HostError(f"{path} is not a key file", "restore it from a backup") from error
    except OSError as error:
        raise HostError(
            f"{path} cannot be read or written: {error.strerror}", hint_of(error, CHECK_DATA)
        ) from error


@asynccontextmanager
async def _reached(
    options: Options, onion: Onion | None, listeners: Sequence[socket.socket]
) -> AsyncIterator[tuple[str, int]]:
    """Where clients find the server that listens there. Raises HostError, OnionError."""
    if onion is not None:
        # read in only here: other servers would be a sixth larger for stem
        from cbfs_host.onion_service import published  # noqa: PLC0415

        async with published(onion, local(place_of(listeners))) as name:
            yield name, PORT
        return
    first = place_of(listeners)
    named = options.listen[0].host if options.listen else first.host
    place = options.public or Place(named, first.port)
    if place.everywhere:
        raise HostError(f"clients cannot reach {place.host}", "say how they do: --public HOST:PORT")
    yield place.host, place.port


@dataclass(frozen=True, slots=True)
class Prepared:
    """What there is before anything runs."""

    data: Path
    secret: ServerSecret
    random: Random
    onion: Onion | None
    passed: Sequence[socket.socket]
    manager: Manager
    limits: Current[Limits]
    rereading: Rereading


def _opened(options: Options, prepared: Prepared) -> MailboxStore:
    """Raises StoreError, HostError."""
    if options.store is None:
        return LmdbStore(prepared.data / "store", prepared.limits, restored=options.restored)
    try:
        from cbfs_server.postgres_store.store import PostgresStore  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise HostError(f"--store needs {error.name}", "pip install 'psycopg[binary]'") from error
    if (prepared.data / "store").exists():
        raise HostError(
            f"{prepared.data} has a store of its own, whose mail would stay there",
            "move that away, and accounts and mail begin anew in the database",
        )
    return PostgresStore(
        options.store,
        prepared.secret.key,
        prepared.limits,
        tells=options.store_logs,
        restored=options.restored,
    )


async def serve(options: Options, prepared: Prepared) -> None:
    """Run the server until it is asked to end. What was answered is on the disk by then."""
    store = _opened(options, prepared)
    try:
        with contextlib.ExitStack() as stack:
            operators = stack.enter_context(operators_socket(prepared.data))
            for_metrics = stack.enter_context(
                listening_for_metrics(options.metrics, for_all=options.metrics_for_all)
            )
            places = options.listen or (() if prepared.passed else DEFAULT_LISTEN)
            public = stack.enter_context(listen_all(prepared.passed, places))
            doors: Doors = [(public, options.own is None)]
            if options.own is not None:  # only the owner may make accounts
                doors.append(([stack.enter_context(listen_locally(options.own))], True))
            async with trio.open_nursery() as committer:
                committer.start_soon(store.run)
                async with trio.open_nursery() as nursery:
                    watched = await _begin(options, prepared, store, doors, nursery)
                    limits = {"limits": LiveLimits(prepared.rereading).verb}
                    verbs = ServerOperators(watched).verbs | limits
                    answer = partial(answer_operators, operators, verbs)
                    nursery.start_soon(keep_going, "answering operators", answer)
                    show(nursery, for_metrics, PREFIX, FAMILIES, watched.figures)
                    async with _reached(options, prepared.onion, public) as where:
                        url = Address(prepared.secret.key, *where).url()
                        print(url, flush=True)
                        look_less_for_cycles()
                        prepared.manager.ready(url)
                        await prepared.manager.watch(store.progress)
                        await trio.sleep_forever()
                committer.cancel_scope.cancel()
    finally:
        store.close()


Doors = list[tuple[Sequence[socket.socket], bool]]
"""Listening sockets, and whether newcomers may come in there."""


async def _begin(
    options: Options,
    prepared: Prepared,
    store: MailboxStore,
    doors: Doors,
    nursery: trio.Nursery,
) -> WatchedServer:
    """Serve clients at the doors, and obey signals, in the nursery."""
    stopping, reread = prepared.manager.stopping, prepared.rereading.reread
    await nursery.start(until_asked, nursery.cancel_scope, reread, stopping)
    if options.own is not None:
        nursery.start_soon(_end_of_input, nursery.cancel_scope)
    pusher, housekeeping, meters = Pusher(store), Housekeeping(store), Meters()
    registrar = _registrar(options.names)
    admission = Newcomers(prepared.secret.encoded, options.registration or OPEN, registrar)
    servers = []
    for listeners, newcomers in doors:
        service = housekeeping.service(pusher, meters, newcomers=newcomers, admission=admission)
        servers.append(Server(prepared.secret, prepared.random, service, pusher, nursery))
        servers[-1].start(*listeners)
    nursery.start_soon(keep_going, "housekeeping", housekeeping.keep)
    nursery.start_soon(keep_going, "counting", meters.run)
    return WatchedServer(store, housekeeping, pusher, tuple(servers), meters)


def _registrar(names: Path | None) -> Callable[[], Registrar | None]:
    if names is None:
        return lambda: None
    # read in only here: other servers would be larger for what is said of names
    from cbfs_server.registrar import registrar_of  # noqa: PLC0415

    return partial(registrar_of, names)


async def _end_of_input(scope: trio.CancelScope) -> None:
    await trio.lowlevel.wait_readable(STDIN)
    while os.read(STDIN, READ_SIZE):
        await trio.lowlevel.wait_readable(STDIN)
    scope.cancel()


def main(arguments: list[str] | None = None) -> int:
    """Entry point: 0 after a signal, 1 for a failure, 2 for wrong usage, 130 after Ctrl-C before
    it serves."""
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] == ["admin"]:
        commands = add_status, add_limits, add_copying, add_compact, add_users
        return start("cbfs-server", partial(administer, "cbfs-server", given[1:], *commands))
    if given[:1] == ["invite"]:
        return start("cbfs-server", partial(invite, given[1:]))
    return start(PROGRAM, partial(_main, given))


def _main(arguments: list[str]) -> None:
    said, values = parse(arguments)
    options = options_of(values)
    manager, passed = Manager(), passed_sockets()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, hard), hard))
    os.umask(0o077)
    random = Random(os.urandom, kem_encapsulate)
    limits = Current(limits_of(values))
    file = None if options.log is None else trusted_path(options.log)
    with opened_data(options.data, NAME) as data, ServerLog(file) as log:

        def apply(values: dict[str, Any]) -> None:
            limits.now = limits_of(values)
            log_to(log, NAME, verbose=values["verbose"], kind=values["log_format"])

        apply(values)
        secret = load_key(data / "key", random)
        onion = chosen(options, data, random.token)
        rereading = Rereading(said, values, log, manager, apply)
        prepared = Prepared(data, secret, random, onion, passed, manager, limits, rereading)
        trio.run(serve, options, prepared)


if __name__ == "__main__":
    sys.exit(main())
