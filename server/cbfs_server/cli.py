"""The program cbfs-server."""

import argparse
import contextlib
import logging
import os
import resource
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from cbfs_common.errors import DecodeError
from cbfs_common.onion import PORT
from cbfs_common.primitives import Random, kem_encapsulate
from cbfs_common.profile import Address
from cbfs_common.wire.transport import SERVER_SECRET_SIZE, ServerSecret
from cbfs_host.complaints import CHECK_DATA, HostError, hint_of
from cbfs_host.files import opened_data, trusted_path, write_file
from cbfs_host.listening import Place, listen, listen_locally, place_option
from cbfs_host.logs import ServerLog, add_log, keep_going, log_to
from cbfs_host.onion import Onion, add_options, chosen, published
from cbfs_host.program import start, until_asked
from cbfs_server.housekeeping import Housekeeping
from cbfs_server.limits import (
    ACCOUNTS_MAX,
    MAILBOX_MAX,
    READ_SIZE,
)
from cbfs_server.push import Pusher
from cbfs_server.sockets import Server
from cbfs_server.store import MailboxStore

PROGRAM = "cbfs"
"""How its errors begin: a mount that runs a server looks for them."""

DEFAULT_LISTEN = "127.0.0.1:1984"
_EPILOG = """\
example:
  cbfs-server --data /var/lib/cbfs-server --listen 127.0.0.1:1984

The first line on stdout is the server's address, which clients need:
  cbfs://KEY@HOST:PORT
"""

PORT_DEFAULT = 1984
STDIN = 0

_log = logging.getLogger("cbfs_server")


@dataclass(frozen=True, slots=True)
class Options:
    """The command line of cbfs-server."""

    data: Path
    listen: Place
    public: Place | None
    mailbox: int
    onion: argparse.Namespace
    own: Path | None
    log: Path | None
    verbose: bool


_place = partial(place_option, port=PORT_DEFAULT)


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


def parse_options(arguments: list[str] | None) -> Options:
    """The options. Exits with 2 for wrong usage."""
    parser = argparse.ArgumentParser(
        prog="cbfs-server",
        description="Keeps prekeys and sealed envelopes for the accounts of cbfs.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", metavar="DIR", type=Path, required=True, help="key and store")
    parser.add_argument(
        "--listen",
        metavar="HOST:PORT",
        type=_place,
        default=_place(DEFAULT_LISTEN),
        help=f"where to accept connections, port 0 for any (default: {DEFAULT_LISTEN})",
    )
    parser.add_argument(
        "--public",
        metavar="HOST:PORT",
        type=_place,
        help="how clients reach it, when that is not what it listens on (say, an .onion)",
    )
    parser.add_argument(
        "--mailbox",
        metavar="N",
        type=_positive,
        default=MAILBOX_MAX,
        help=f"envelopes of 16 KiB kept for one account (default: {MAILBOX_MAX})",
    )
    parser.add_argument(
        "--own",
        metavar="SOCKET",
        type=Path,
        help="let nobody make an account but who connects at this unix socket, and end when"
        " standard input does: how a mount runs a server of its own",
    )
    add_log(parser)
    parser.add_argument("--verbose", action="store_true", help="log the end of every connection")
    add_options(parser)
    got = parser.parse_args(arguments)
    return Options(
        got.data, got.listen, got.public, got.mailbox, got, got.own, got.log, got.verbose
    )


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
    options: Options, onion: Onion | None, port: int
) -> AsyncIterator[tuple[str, int]]:
    """Where clients find the server that listens on ``port``. Raises HostError, OnionError."""
    if onion is not None:
        async with published(onion, port) as name:
            yield name, PORT
        return
    place = options.public or Place(options.listen.host, port)
    if place.everywhere:
        raise HostError(f"clients cannot reach {place.host}", "say how they do: --public HOST:PORT")
    yield place.host, place.port


async def serve(
    options: Options,
    data: Path,
    secret: ServerSecret,
    random: Random,
    onion: Onion | None,
    log: ServerLog,
) -> None:
    """Run the server until it is asked to end. What was answered is on the disk by then."""
    store = MailboxStore(data / "store")
    try:
        with contextlib.ExitStack() as stack:
            public = stack.enter_context(listen(options.listen))
            listeners = [(public, ACCOUNTS_MAX)]
            if options.own is not None:  # only the owner may make accounts
                owners = stack.enter_context(listen_locally(options.own))
                listeners = [(public, 0), (owners, ACCOUNTS_MAX)]
            async with trio.open_nursery() as committer:
                committer.start_soon(store.run)
                async with trio.open_nursery() as nursery:
                    await nursery.start(until_asked, nursery.cancel_scope, log.reopen)
                    if options.own is not None:
                        nursery.start_soon(_end_of_input, nursery.cancel_scope)
                    pusher = Pusher(store)
                    housekeeping = Housekeeping(store, data)
                    for listener, accounts in listeners:
                        service = housekeeping.service(pusher, options.mailbox, accounts)
                        Server(secret, random, service, pusher, nursery).start(listener)
                    nursery.start_soon(keep_going, "housekeeping", housekeeping.keep)
                    async with _reached(options, onion, public.getsockname()[1]) as where:
                        print(Address(secret.key, *where).url(), flush=True)
                        await trio.sleep_forever()
                committer.cancel_scope.cancel()
    finally:
        store.close()


async def _end_of_input(scope: trio.CancelScope) -> None:
    await trio.lowlevel.wait_readable(STDIN)
    while os.read(STDIN, READ_SIZE):
        await trio.lowlevel.wait_readable(STDIN)
    scope.cancel()


def main(arguments: list[str] | None = None) -> int:
    """Entry point: 0 after a signal, 1 for a failure, 2 for wrong usage, 130 after Ctrl-C before
    it serves."""
    return start(PROGRAM, partial(_main, arguments))


def _main(arguments: list[str] | None) -> None:
    options = parse_options(arguments)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, hard), hard))
    os.umask(0o077)
    random = Random(os.urandom, kem_encapsulate)
    file = None if options.log is None else trusted_path(options.log)
    with opened_data(options.data, "cbfs-server") as data, ServerLog(file) as log:
        level = logging.INFO if options.verbose else logging.WARNING
        log_to(log, level, "%(levelname)s %(name)s: %(message)s")
        secret = load_key(data / "key", random)
        onion = chosen(options.onion, data, random.token)
        trio.run(serve, options, data, secret, random, onion, log)


if __name__ == "__main__":
    sys.exit(main())
