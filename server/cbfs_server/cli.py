"""The program cbfs-server."""

import argparse
import contextlib
import fcntl
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from cbfs_common.errors import CbfsError
from cbfs_common.onion import PORT
from cbfs_common.primitives import KEY_SIZE, Random, dh_public, kem_encapsulate
from cbfs_common.profile import Address
from cbfs_server.durable import make_directory, write_file
from cbfs_server.limits import (
    ACCOUNTS_MAX,
    BACKLOG,
    EXPIRY_PERIOD,
    FREE_MIN,
    HOUSEKEEPING_PERIOD,
    MAILBOX_MAX,
    READ_SIZE,
)
from cbfs_server.onion import Onion, add_options, chosen, published
from cbfs_server.push import Pusher
from cbfs_server.service import DAY, Service, expire
from cbfs_server.sockets import Server
from cbfs_server.store import Store, StoreError

DEFAULT_LISTEN = "127.0.0.1:1984"
_EPILOG = """\
example:
  cbfs-server --data /var/lib/cbfs-server --listen 127.0.0.1:1984

The first line on stdout is the server's address, which clients need:
  cbfs://KEY@HOST:PORT
"""

_NO_ADDRESS = ("0.0.0.0", "0")  # noqa: S104  a test for it

_log = logging.getLogger("cbfs_server")


class UsageError(CbfsError):
    """What the operator asked for cannot be done."""


@dataclass(frozen=True, slots=True)
class Options:
    """The command line."""

    data: Path
    listen: tuple[str, int]
    public: tuple[str, int] | None
    mailbox: int
    onion: argparse.Namespace
    own: Path | None


def _host_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host, int(port)


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


def parse_options(arguments: list[str] | None) -> tuple[Options, bool]:
    """The options, and whether to be verbose. Exits with 2 for wrong usage."""
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
        type=_host_port,
        default=_host_port(DEFAULT_LISTEN),
        help=f"where to accept connections, port 0 for any (default: {DEFAULT_LISTEN})",
    )
    parser.add_argument(
        "--public",
        metavar="HOST:PORT",
        type=_host_port,
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
    parser.add_argument("--verbose", action="store_true", help="log the end of every connection")
    add_options(parser)
    got = parser.parse_args(arguments)
    return Options(got.data, got.listen, got.public, got.mailbox, got, got.own), got.verbose


@contextmanager
def data_directory(path: Path) -> Iterator[None]:
    """Make the directory (0700) if need be and hold its lock. Raises UsageError."""
    try:
        make_directory(path)
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be used: {error.strerror}", "give a directory that this user may write"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise UsageError(
            f"another cbfs-server uses {path}", "stop it first, or give another --data"
        ) from error
    try:
        yield
    finally:
        os.close(lock)


def load_key(path: Path, random: Random) -> bytes:
    """The server's secret key (32 bytes, file 0600), made when there is none. A crash leaves the
    whole key or none. Raises UsageError."""
    try:
        with contextlib.suppress(FileNotFoundError):
            key = path.read_bytes()
            if len(key) != KEY_SIZE:
                raise UsageError(f"{path} is not a key file", "restore it from a backup")
            return key
        key = random.token(KEY_SIZE)
        write_file(path, key)
        return key
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read or written: {error.strerror}", "check the files' owner"
        ) from error


def listen(where: tuple[str, int]) -> socket.socket:
    """A non-blocking listening socket. Raises UsageError."""
    try:
        listener = socket.create_server(where, backlog=BACKLOG)
    except OSError as error:
        raise UsageError(
            f"cannot listen on {where[0]}:{where[1]}: {error.strerror}",
            "is another server running there?",
        ) from error
    listener.setblocking(False)
    return listener


@contextmanager
def listen_locally(path: Path) -> Iterator[socket.socket]:
    """The same at a unix socket, which is gone afterwards. Raises UsageError."""
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            path.unlink(missing_ok=True)  # of one that was killed: the data directory is locked
            listener.bind(str(path))
            listener.listen(BACKLOG)
        except OSError as error:
            raise UsageError(
                f"cannot listen at {path}: {error.strerror or error}", "give another --own"
            ) from error
        listener.setblocking(False)
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


@asynccontextmanager
async def _reached(
    options: Options, onion: Onion | None, port: int
) -> AsyncIterator[tuple[str, int]]:
    """Where clients find the server that listens on ``port``. Raises UsageError, OnionError."""
    if onion is not None:
        async with published(onion, port) as host:
            yield host, PORT
        return
    host, port = options.public or (options.listen[0], port)
    if host in _NO_ADDRESS:
        raise UsageError(f"clients cannot reach {host}", "say how they do: --public HOST:PORT")
    yield host, port


async def serve(options: Options, secret: bytes, random: Random, onion: Onion | None) -> None:
    """Run the server until it is asked to end. What was answered is on the disk by then."""
    store = Store(options.data / "store")
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
                    await nursery.start(_end_when_asked, options, nursery.cancel_scope)
                    pusher = Pusher(store)
                    services = []
                    for listener, accounts in listeners:
                        service = Service(store, pusher, time.time, options.mailbox, accounts)
                        server = Server(secret, random, service, pusher, nursery)
                        nursery.start_soon(server.accept, listener)
                        nursery.start_soon(server.watch)
                        nursery.start_soon(server.pad)
                        services.append(service)
                    nursery.start_soon(_keep_house, store, services, options.data)
                    async with _reached(options, onion, public.getsockname()[1]) as where:
                        print(Address(dh_public(secret), *where).url(), flush=True)
                        await trio.sleep_forever()
                committer.cancel_scope.cancel()
    finally:
        store.close()


async def _end_when_asked(
    options: Options, scope: trio.CancelScope, task_status: trio.TaskStatus[None]
) -> None:
    """Cancels at SIGTERM and SIGINT, and at the end of standard input where that ends it."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async with trio.open_nursery() as nursery:
            if options.own is not None:
                nursery.start_soon(_end_of_input, scope)
            async for _ in signals:
                scope.cancel()


async def _end_of_input(scope: trio.CancelScope) -> None:
    descriptor = sys.stdin.fileno()
    await trio.lowlevel.wait_readable(descriptor)
    while os.read(descriptor, READ_SIZE):
        await trio.lowlevel.wait_readable(descriptor)
    scope.cancel()


async def _keep_house(store: Store, services: list[Service], data: Path) -> None:
    """Watch the disk's free space, and forget what is too old."""
    next_expiry = trio.current_time()
    while True:
        usage = await trio.to_thread.run_sync(os.statvfs, data)
        full = usage.f_bavail * usage.f_frsize < FREE_MIN
        if full != services[0].full:
            _log.warning("the disk is full: nothing is taken in" if full else "disk space again")
        for service in services:
            service.full = full
        if trio.current_time() >= next_expiry:
            next_expiry += EXPIRY_PERIOD
            await _expire(store, int(time.time()) // DAY)
        await trio.sleep(HOUSEKEEPING_PERIOD)


async def _expire(store: Store, today: int) -> None:
    start: bytes | None = b""
    try:
        while start is not None:
            start = await store.commit(partial(expire, start=start, today=today))
    except StoreError as error:
        _log.error("old envelopes stay: %s", error)


def main(arguments: list[str] | None = None) -> int:
    """Entry point: 0 after a signal, 1 for a failure, 2 for wrong usage."""
    options, verbose = parse_options(arguments)
    logging.basicConfig(
        stream=sys.stderr,
        format="%(levelname)s %(name)s: %(message)s",
        level=logging.INFO if verbose else logging.WARNING,
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, hard), hard))
    os.umask(0o077)
    random = Random(os.urandom, kem_encapsulate)
    failed = False
    try:
        with data_directory(options.data):
            secret = load_key(options.data / "key", random)
            onion = chosen(options.onion, options.data, random.token)
            trio.run(serve, options, secret, random, onion)
    except* CbfsError as group:
        failed = True
        _complain(group)
    return int(failed)


def _complain(group: BaseExceptionGroup[CbfsError]) -> None:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            _complain(error)
            continue
        print(f"cbfs: error: {error}", file=sys.stderr)
        if error.hint:
            print(f"cbfs: hint: {error.hint}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
